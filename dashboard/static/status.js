// Keeps the page's numbers fresh. Text goes in as text: nothing from the server is read as markup.
"use strict";

const put = (id, text) => {
  const element = document.getElementById(id);
  if (element.textContent !== text) element.textContent = text;
};

const row = (device) => {
  const line = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = device.name;
  line.append(name);
  for (const value of [device.state, device.accepted, device.receipted]) {
    line.insertCell().textContent = typeof value === "number" ? value.toLocaleString("en") : value;
  }
  return line;
};

const events = new EventSource("/events");
events.onmessage = (event) => {
  const status = JSON.parse(event.data);
  for (const [id, text] of Object.entries(status.lines)) put(id, text);
  put("origin", status.checkpoint.origin);
  put("note", status.checkpoint.note);
  document.getElementById("rows").replaceChildren(...status.devices.map(row));
  put("link", "");
};
events.onerror = () => put("link", "The demo has ended or cannot be reached; these are its last numbers.");
