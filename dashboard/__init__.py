"""What people see in a browser. So far one page: the status of a running demo.

snapshot   the numbers, as one value: what the terminal view, the page and `/status.json` all show
app        the page, its JSON, its server-sent events
server     uvicorn in a thread
"""
