// The chat page: wires the parts together and owns the one answer that may be on its way.

import { streamAnswer } from "./api.js";
import { Conversation, tabStorage } from "./conversation.js";
import { HealthDot } from "./health.js";
import { ModelPicker, isDemonstration, isLoaded } from "./models.js";
import { SignIn } from "./signin.js";
import { AnswerItem, Scroller, userItem } from "./view.js";
import { ApiProblem, inWords } from "./words.js";

const EXAMPLES = [
  { title: "What are you?" },
  { title: "How do I get a bigger model?" },
  {
    title: "When does the library open?",
    detail: "Answered from a note that goes with the question",
    prompt: "Context:\n[1] The library opens at nine.\n\nQuestion: When does the library open?",
  },
];

const byId = (id) => document.getElementById(id);
const promptField = byId("prompt");
const list = byId("messages");
const scroller = new Scroller(document.scrollingElement);
const conversation = new Conversation(tabStorage());
const picker = new ModelPicker(byId("model"));
const dot = new HealthDot(byId("health"), byId("health-text"));
const signIn = new SignIn();

/** The answer on its way: {abort, item, message}, or null. */
let running = null;

function start() {
  byId("api-base").textContent = `${location.origin}/v1`;
  byId("examples").append(...EXAMPLES.map(exampleItem));
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send(promptField.value);
  });
  promptField.addEventListener("keydown", onPromptKey);
  promptField.addEventListener("input", onPromptInput);
  byId("stop").addEventListener("click", stop);
  byId("new-chat").addEventListener("click", newChat);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running !== null) {
      stop();
    }
  });
  picker.addEventListener("change", showModel);
  picker.select.addEventListener("focus", refreshModels);
  dot.addEventListener("change", refreshModels);
  addEventListener("pagehide", leave);
  signIn.addEventListener("open", enter);
  signIn.addEventListener("signout", forget);
  signIn.addEventListener("away", () => dot.check());
  showRestored();
  dot.start();
  update();
  signIn.begin();
}

function enter() {
  refreshModels();
  onPromptInput();
  if (!conversation.isEmpty) {
    scroller.toEnd();
  }
  if (matchMedia("(hover: hover)").matches) {
    promptField.focus({ preventScroll: true });
  }
}

/** Whoever signs out leaves nothing behind for the next one at this screen. */
function forget() {
  newChat();
  promptField.value = "";
}

// Asking

function onPromptKey(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send(promptField.value);
  }
}

function onPromptInput() {
  promptField.style.height = "auto";
  promptField.style.height = `${promptField.scrollHeight}px`;
  update();
}

function send(text) {
  if (running !== null || text.trim() === "") {
    return;
  }
  promptField.value = "";
  onPromptInput();
  conversation.add({ role: "user", content: text.trim() });
  list.append(userItem(text.trim()));
  dropOldActions();
  scroller.toEnd();
  answer();
}

async function answer() {
  const model = picker.chosen;
  const item = new AnswerItem(scroller);
  const message = { role: "assistant", content: "", model: model?.id ?? "", demonstration: isDemonstration(model) };
  const mine = { abort: new AbortController(), item, message };
  running = mine;
  item.setSpeaker(message.model || "No model", message.demonstration);
  const ticking = showWaiting(item, model);
  scroller.follow(() => list.append(item.item));
  announce("The model is answering.");
  update();
  try {
    const end = await receive(mine, model);
    if (running === mine) {
      finish(mine, end);
    }
  } catch (error) {
    if (running === mine) {
      fail(mine, error); // an answer that nobody waits for any more fails unheard
    }
  } finally {
    clearInterval(ticking);
    if (running === mine) {
      running = null;
    }
    update();
  }
}

/** Reads the answer to its end; what is returned says how long it took (seconds) and why it ended. */
async function receive({ abort, item, message }, model) {
  if (model === undefined) {
    throw new ApiProblem(0, "no_model", "");
  }
  const begin = performance.now();
  const end = { finish: "", usage: null, duration: 0, wasLoaded: isLoaded(model) };
  for await (const piece of streamAnswer(model.id, conversation.forModel(), abort.signal)) {
    if (piece.text) {
      message.content += piece.text;
      item.append(piece.text);
    }
    end.finish = piece.finish ?? end.finish;
    end.usage = piece.usage ?? end.usage;
  }
  end.duration = Math.max(performance.now() - begin, 1) / 1000;
  return end;
}

function finish({ item, message }, end) {
  message.facts = factsOf(end, message);
  item.finish(message.facts);
  conversation.add(message);
  announce(message.content === "" ? "The model ended without a word." : `The model answered: ${message.content}`);
  refreshModels();
}

function fail({ abort, item, message }, error) {
  if (abort.signal.aborted) {
    message.facts = "Stopped";
    item.finish(message.facts);
    conversation.add(message);
    announce("The answer was stopped.");
    return;
  }
  message.problem = inWords(error);
  showProblem(item, message);
  conversation.add(message);
  announce(`${message.problem.what} ${message.problem.advice}`);
  dot.check();
  refreshModels();
}

function stop() {
  running?.abort.abort();
  promptField.focus();
}

function newChat() {
  running?.abort.abort();
  running = null;
  conversation.clear();
  list.replaceChildren();
  update();
  announce("A new chat.");
  promptField.focus();
}

function retry(item) {
  if (running === null) {
    conversation.dropLastAnswer();
    item.remove();
    answer();
    promptField.focus();
  }
}

// Showing

function exampleItem({ title, detail, prompt }) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "example";
  button.textContent = title;
  if (detail) {
    const small = document.createElement("small");
    small.textContent = detail;
    button.append(small);
  }
  button.addEventListener("click", () => {
    send(prompt ?? title);
    promptField.focus();
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

/** Shows the conversation that the tab remembers; a question without an answer can be asked again. */
function showRestored() {
  if (conversation.messages.at(-1)?.role === "user") {
    conversation.add({ role: "assistant", content: "", problem: inWords(new ApiProblem(0, "broken_off", "")) });
  }
  for (const message of conversation.messages) {
    list.append(message.role === "user" ? userItem(message.content) : restoredAnswer(message));
  }
  dropOldActions();
}

function restoredAnswer(message) {
  const item = new AnswerItem(scroller);
  item.setSpeaker(message.model || "No model", message.demonstration);
  item.append(message.content);
  item.flush();
  if (message.problem) {
    showProblem(item, message);
  } else {
    item.finish(message.facts);
  }
  return item.item;
}

/** Only the last answer can be tried again. */
function dropOldActions() {
  for (const actions of list.querySelectorAll(".message:not(:last-child) .actions")) {
    actions.remove();
  }
}

function showProblem(item, message) {
  const again = { label: "Try again", act: () => retry(item) };
  const fresh = { label: "New chat", act: newChat };
  item.fail(message.problem, message.problem.code === "context_length_exceeded" ? [fresh, again] : [again]);
}

/** Says what is being waited for, with the seconds once it takes long; returns the timer. */
function showWaiting(item, model) {
  const words = model !== undefined && !isLoaded(model) ? "Loading the model" : "Thinking";
  const begin = performance.now();
  item.setWaiting(`${words} …`);
  return setInterval(() => {
    if (item.waiting !== undefined) {
      item.setWaiting(`${words} … ${Math.round((performance.now() - begin) / 1000)} s`);
    }
  }, 1000);
}

function factsOf({ finish: reason, usage, duration, wasLoaded }, message) {
  const facts = [];
  const tokens = usage?.completion_tokens;
  if (Number.isFinite(tokens)) {
    facts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"} in ${duration.toFixed(duration < 10 ? 2 : 0)} s`);
    // From the question to the last word: pieces reach the page in bundles, so the time between them says nothing.
    if (tokens > 4 && wasLoaded) {
      facts.push(`${Math.round(tokens / duration)} tokens/s`);
    }
  }
  if (reason === "length") {
    facts.push("cut at the token limit");
  }
  if (message.content === "") {
    facts.unshift("No words");
  }
  return facts.join(" · ");
}

function showModel() {
  const model = picker.chosen;
  byId("demonstration").hidden = !isDemonstration(model);
  byId("demonstration-name").textContent = model?.id ?? "";
  update();
}

async function refreshModels() {
  if (!signIn.isOpen) {
    return;
  }
  try {
    await picker.refresh();
  } catch {
    dot.check(); // the dot says what is wrong; the list keeps what it had
  }
}

function update() {
  const busy = running !== null;
  byId("send").hidden = busy;
  byId("stop").hidden = !busy;
  byId("send").disabled = promptField.value.trim() === "";
  byId("empty").hidden = !conversation.isEmpty;
  byId("new-chat").disabled = conversation.isEmpty;
  list.setAttribute("aria-busy", String(busy));
}

function announce(words) {
  byId("announcer").textContent = words;
}

/** One listener: between two of them the answer that is cut off would be heard to fail. */
function leave() {
  keepUnfinished();
  signIn.forgetKey();
}

function keepUnfinished() {
  if (running !== null) {
    running.message.problem = inWords(new ApiProblem(0, "broken_off", ""));
    conversation.add(running.message);
    running = null;
  }
}

start();
