// The conversation: its messages, and a bounded copy that survives a reload of this tab.

const KEY = "fastapi-foundry.conversation.1";
const STORED_MESSAGES = 60;
const STORED_CHARACTERS = 200_000;

/**
 * A message: {role: "user"|"assistant", content, model?, demonstration?, facts?, problem?, unfinished?}.
 * `unfinished` marks an answer that a reload cut off.
 */
export class Conversation {
  /** @param {Storage|null} storage */
  constructor(storage) {
    this.storage = storage;
    this.messages = this.restore();
  }

  get isEmpty() {
    return this.messages.length === 0;
  }

  add(message) {
    this.messages.push(message);
    this.save();
    return message;
  }

  /** Takes the last answer away, so that its question can be asked again. */
  dropLastAnswer() {
    if (this.messages.at(-1)?.role === "assistant") {
      this.messages.pop();
      this.save();
    }
  }

  clear() {
    this.messages = [];
    this.save();
  }

  /** What the model is told: every question and answer, without those that failed before a word came. */
  forModel() {
    return this.messages
      .filter((message) => message.content !== "")
      .map(({ role, content }) => ({ role, content }));
  }

  save() {
    if (this.storage === null) {
      return;
    }
    let kept = this.messages.slice(-STORED_MESSAGES);
    while (kept.length > 0 && JSON.stringify(kept).length > STORED_CHARACTERS) {
      kept = kept.slice(1);
    }
    try {
      this.storage.setItem(KEY, JSON.stringify(kept));
    } catch {
      this.storage = null; // full or denied: the conversation then lives as long as the page
    }
  }

  restore() {
    try {
      const kept = JSON.parse(this.storage?.getItem(KEY) ?? "[]");
      return Array.isArray(kept) ? kept.filter(isMessage) : [];
    } catch {
      return [];
    }
  }
}

function isMessage(value) {
  return (value?.role === "user" || value?.role === "assistant") && typeof value.content === "string";
}

/** The tab's storage, or null where the browser denies it. */
export function tabStorage() {
  try {
    return window.sessionStorage;
  } catch {
    return null;
  }
}
