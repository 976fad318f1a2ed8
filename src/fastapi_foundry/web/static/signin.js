// Who may come in: asks the server whether a key is needed, and shows the field for it where one is.

import { closeSession, getSession, openSession, whenRefused } from "./api.js";
import { inWords } from "./words.js";

const LINK = "#link=";
const NEEDED = "This server asks for a key.";
const ENDED =
  "You have been signed out: your session has ended, or its key is not valid any more. Your chat is kept; sign in to go on.";
const LEFT = "You are signed out.";
const USED = "This link does not work any more: it has been used, or has expired. Ask for a new one, or sign in with a key.";

const byId = (id) => document.getElementById(id);

/** Dispatches `open` whenever the chat comes into sight, `signout` when somebody does that, `away` when the server is. */
export class SignIn extends EventTarget {
  constructor() {
    super();
    this.isOpen = false;
    this.name = "";
    this.key = byId("key");
    this.problem = byId("sign-in-problem");
    byId("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.useKey();
    });
    byId("show-key").addEventListener("click", () => this.showKey(this.key.type === "password"));
    byId("sign-out").addEventListener("click", () => this.signOut());
    addEventListener("hashchange", () => location.hash.startsWith(LINK) && this.begin());
    document.addEventListener("visibilitychange", () => this.look());
    whenRefused(() => this.refused());
  }

  /** Signs in with the address's one-time link if it has one; else finds out whether to ask for a key. */
  async begin() {
    const link = takeLink();
    const session = await getSession().catch(() => null); // a server that is away shows in the chat, as ever
    if (link === null) {
      this.settle(session, NEEDED);
      return;
    }
    try {
      this.settle(await openSession({ link }), NEEDED);
    } catch (error) {
      this.settle(session, NEEDED);
      this.complain(error.status === 400 || error.status === 401 ? USED : sentence(error));
    }
  }

  async useKey() {
    const key = this.key.value.trim();
    if (key === "") {
      this.complain("Enter a key.");
      return;
    }
    byId("enter").disabled = true;
    this.showKey(false);
    try {
      this.settle(await openSession({ key }), NEEDED);
    } catch (error) {
      this.complain(error.status === 401 ? error.said : sentence(error));
    } finally {
      byId("enter").disabled = false;
    }
  }

  async signOut() {
    try {
      this.settle(await closeSession(), LEFT, "signout");
    } catch {
      this.dispatchEvent(new Event("away")); // and whoever is signed in still is
    }
  }

  /** The server does not know us any more, in the middle of things. */
  refused() {
    if (this.isOpen) {
      this.close(this.name === "" ? NEEDED : ENDED);
    }
  }

  /** Somebody may have signed in in another tab meanwhile. */
  async look() {
    if (document.visibilityState === "visible" && !this.isOpen) {
      const session = await getSession().catch(() => null);
      if (session?.signed_in && !this.isOpen) {
        this.settle(session, NEEDED);
      }
    }
  }

  settle(session, reason, before = null) {
    this.name = session?.csrf ? (session.name ?? "") : "";
    byId("account").hidden = this.name === "";
    byId("account-name").textContent = this.name;
    byId("account-name").title = this.name;
    if (before !== null) {
      this.dispatchEvent(new Event(before));
    }
    if (session === null || session.signed_in || !session.needed) {
      this.open();
    } else {
      this.close(reason);
    }
  }

  open() {
    this.forgetKey();
    this.show(true);
    this.dispatchEvent(new Event("open"));
  }

  close(reason) {
    byId("sign-in-reason").textContent = reason;
    this.show(false);
    this.key.focus();
  }

  show(isOpen) {
    this.isOpen = isOpen;
    this.complain("");
    byId("sign-in").hidden = isOpen;
    for (const id of ["tools", "chat", "composer-bar"]) {
      byId(id).hidden = !isOpen;
    }
    byId("account").hidden = !isOpen || this.name === "";
    document.title = `${isOpen ? "Chat" : "Sign in"} · FastAPI Foundry`;
  }

  complain(words) {
    this.problem.hidden = words === "";
    this.problem.textContent = words;
    this.key.setAttribute("aria-invalid", String(words !== ""));
    if (words !== "" && !this.isOpen) {
      this.key.focus();
      this.key.select();
    }
  }

  showKey(shown) {
    this.key.type = shown ? "text" : "password";
    byId("show-key-word").textContent = shown ? "Hide" : "Show";
  }

  /** Leaves nothing of a key in the page, nor for the browser to bring back with it. */
  forgetKey() {
    this.key.value = "";
    this.showKey(false);
  }
}

/** The secret of a one-time link, taken out of the address and the history at once; null without one. */
function takeLink() {
  const hash = location.hash;
  if (!hash.startsWith(LINK)) {
    return null;
  }
  history.replaceState(null, "", location.pathname + location.search);
  return hash.slice(LINK.length);
}

function sentence(error) {
  const { what, advice } = inWords(error);
  return `${what} ${advice}`;
}
