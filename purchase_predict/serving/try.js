"use strict";
const answers = document.getElementById("answers");
const cart = document.getElementById("cart");
const visit = document.getElementById("visit");
let visits = [];
// The page's address without user and password: the browser refuses to fetch an address that contains them.
const here = location.origin + location.pathname.replace(/[^/]*$/, "");

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function shown(value) {
  if (value === null || value === undefined) return "unknown";
  return typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(4) : String(value);
}

function stamp(milliseconds) {
  return new Date(milliseconds).toISOString().replace("T", " ").replace(/(\.000)?Z$/, " UTC");
}

// The milliseconds since 1970 of a UTC time, which may end in UTC or Z; NaN if the text is not a time.
function moment(text) {
  const [, day, time] = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,3})?) ?(?:UTC|Z)?$/.exec(text.trim()) || [];
  return Date.parse(day + "T" + time + "Z");
}

// A table of the 10 columns with the largest absolute SHAP values (LightGBM's, in log-odds), the largest first.
function pushes(answer) {
  const table = element("table");
  const head = table.insertRow();
  for (const text of ["column", "value", "SHAP value", ""]) head.append(element("th", text, text === "SHAP value" ? "number" : ""));
  const entries = Object.entries(answer.contributions).filter(([name]) => name !== "base");
  entries.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const largest = Math.max(...entries.map(([, value]) => Math.abs(value)), 1e-9);
  for (const [name, value] of entries.slice(0, 10)) {
    const row = table.insertRow();
    row.append(element("td", name.replaceAll("_", "_\u200b")), element("td", shown(answer.columns[name]), "tight"));
    row.append(element("td", (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3), "number"));
    const bar = element("span", undefined, value >= 0 ? "bar" : "bar away");
    bar.style.width = Math.round(60 * Math.abs(value) / largest) + "px";
    const cell = element("td");
    cell.append(bar);
    row.append(cell);
  }
  return table;
}

function card(answer) {
  const box = element("div", undefined, "answer");
  box.append(element("h3", "Product " + answer.product_id + ", put in the cart at " + answer.moment));
  if (answer.probability === null) {
    box.append(element("p", "No prediction: no model version holds the environment's alias.", "error"));
    return box;
  }
  box.append(element("div", (100 * answer.probability).toFixed(1) + " %", "probability"));
  const side = answer.will_buy ? "at or above the model's threshold: the model predicts a purchase"
    : "below the model's threshold: the model predicts no purchase";
  box.append(element("p", "Probability that the visitor buys the product in this session. Version " + answer.model_version
    + " of the model answered. The probability is " + side + "."));
  if (answer.missing.length) {
    box.append(element("p", "These columns have no value in this answer: " + answer.missing.join(", ") + ".", "soft"));
  }
  box.append(pushes(answer));
  return box;
}

async function ask(events) {
  answers.replaceChildren(element("p", "Asking …", "soft"));
  try {
    const response = await fetch(here + "try", {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(events),
    });
    const body = await response.json();
    if (body.detail) throw new Error(typeof body.detail === "string" ? body.detail : "the server refused the events");
    const refused = (body.refused || []).map(wrong => element("p", wrong.field + " " + wrong.reason + ".", "error"));
    answers.replaceChildren(...refused, ...(body.answers || []).map(card));
    if (!answers.childNodes.length) answers.append(element("p", "No product was put in the cart.", "soft"));
  } catch (error) {
    answers.replaceChildren(element("p", error.message, "error"));
  }
}

cart.elements.time.value = stamp(1000 * Math.floor(Date.now() / 1000));
cart.addEventListener("submit", event => {
  event.preventDefault();
  const form = Object.fromEntries(new FormData(cart));
  const now = moment(form.time);
  if (Number.isNaN(now)) return answers.replaceChildren(element("p", "Time must look like 2019-10-07 12:30:05 UTC.", "error"));
  const base = {
    product_id: form.product_id, price: form.price || null, brand: form.brand || null,
    category_code: form.category_code || null, user_id: -1, user_session: "tried",
  };
  const views = Number(form.views);
  const events = [];
  for (let number = 0; number < views; number++) {
    // All views are before the cart event. Each has a different time, because a repeated event does not count.
    const ago = Math.max(Math.round(1000 * form.seconds * (views - number) / views), views - number);
    events.push({...base, event_type: "view", event_time: stamp(now - ago)});
  }
  ask([...events, {...base, event_type: "cart", event_time: stamp(now)}]);
});

function list(events) {
  const table = element("table");
  for (const event of events) {
    const row = table.insertRow();
    const kind = event.event_type === "remove_from_cart" ? "remove" : event.event_type;
    row.append(element("td", event.event_time.slice(11, 19), "tight"), element("td", kind, "tight"));
    row.append(element("td", event.product_id + (event.category_code ? " " + event.category_code : "")));
    row.append(element("td", event.price === null ? "" : event.price.toFixed(2), "number"));
  }
  return table;
}

function chosen() {
  return visits[Number(visit.elements.visit.value)] || [];
}

visit.addEventListener("change", () => document.getElementById("events").replaceChildren(list(chosen())));
visit.addEventListener("submit", event => {
  event.preventDefault();
  ask(chosen());
});
fetch(here + "sample").then(response => response.json()).then(found => {
  visits = found;
  found.forEach((events, number) => {
    const option = element("option", events[0].event_time.slice(0, 16) + ", " + events.length + " events");
    option.value = number;
    visit.elements.visit.append(option);
  });
  document.getElementById("events").replaceChildren(list(chosen()));
});
