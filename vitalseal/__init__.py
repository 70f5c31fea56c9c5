"""The front door: command line, configuration, logging, topic names. Standard library only.

Every program of the house may use this package; it imports none of them (the command line finds its
subcommands by name, when they are called).
"""

__version__ = "0.1.0"
