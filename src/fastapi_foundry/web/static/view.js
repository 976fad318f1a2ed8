// Messages on the page. Text from a model goes through textContent alone: it is never markup.

const STICKY_PX = 96;

/** Makes an element with a class and, if given, a text. */
function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) {
    made.textContent = text;
  }
  return made;
}

/** Keeps the newest text in sight, unless the reader has scrolled up. */
export class Scroller {
  constructor(container) {
    this.container = container;
  }

  /** Runs `change`, then follows it if the end was in sight before. */
  follow(change) {
    const { scrollHeight, scrollTop, clientHeight } = this.container;
    const sticks = scrollHeight - scrollTop - clientHeight < STICKY_PX;
    change();
    if (sticks) {
      this.toEnd();
    }
  }

  toEnd() {
    this.container.scrollTop = this.container.scrollHeight;
  }
}

/** The question as an item of the list. */
export function userItem(content) {
  const item = element("li", "message user");
  item.append(element("h2", "visually-hidden", "You"), element("p", "text", content));
  return item;
}

/** An answer as an item of the list; it grows while it arrives. */
export class AnswerItem {
  constructor(scroller) {
    this.scroller = scroller;
    this.item = element("li", "message assistant");
    this.speaker = element("h2", "speaker");
    this.text = element("p", "text");
    this.node = document.createTextNode("");
    this.text.append(this.node);
    this.item.append(this.speaker);
    this.pending = "";
    this.frame = 0;
  }

  setSpeaker(name, demonstration) {
    this.speaker.textContent = name;
    if (demonstration) {
      this.speaker.append(" ", element("span", "tag", "Demonstration"));
    }
  }

  setWaiting(words) {
    if (this.waiting === undefined) {
      this.waiting = element("p", "waiting");
      this.item.append(this.waiting);
    }
    this.waiting.textContent = words;
  }

  /** Adds text; at most once per frame, since tokens can come faster than the screen shows them. */
  append(text) {
    this.pending += text;
    if (this.frame === 0) {
      this.frame = requestAnimationFrame(() => this.flush());
    }
  }

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (this.pending === "") {
      return;
    }
    this.scroller.follow(() => {
      this.endWaiting();
      if (!this.text.isConnected) {
        this.speaker.after(this.text);
      }
      this.node.appendData(this.pending);
      this.pending = "";
    });
  }

  endWaiting() {
    this.waiting?.remove();
    this.waiting = undefined;
  }

  /** Ends the answer with a line of facts, such as the count of tokens; nothing if it is empty. */
  finish(facts) {
    this.flush();
    this.scroller.follow(() => {
      this.endWaiting();
      if (facts) {
        this.item.append(element("p", "facts", facts));
      }
    });
  }

  /**
   * Ends the answer with a problem.
   * @param {{what: string, advice: string, said: string}} words
   * @param {{label: string, act: () => void}[]} actions
   */
  fail(words, actions) {
    this.flush();
    const box = element("div", "problem");
    box.append(element("p", "what", [words.what, words.advice].filter(Boolean).join(" ")));
    if (words.said) {
      box.append(element("p", "detail", words.said));
    }
    const row = element("div", "actions");
    for (const { label, act } of actions) {
      const button = element("button", "button small", label);
      button.type = "button";
      button.addEventListener("click", act);
      row.append(button);
    }
    box.append(row);
    this.scroller.follow(() => {
      this.endWaiting();
      this.item.append(box);
    });
  }

  remove() {
    this.item.remove();
  }
}
