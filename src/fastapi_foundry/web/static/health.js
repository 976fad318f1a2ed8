// The health dot: asked while the page is in sight, and at once when something went wrong.

import { health } from "./api.js";

const INTERVAL_MS = 10_000;
const TROUBLED_INTERVAL_MS = 2000;
const WORDS = {
  healthy: "Ready",
  degraded: "Engine not ready",
  unhealthy: "Engine away",
  away: "Server away",
};

export class HealthDot extends EventTarget {
  /**
   * @param {HTMLElement} box Carries `data-state`.
   * @param {HTMLElement} text Carries the state in words.
   */
  constructor(box, text) {
    super();
    this.box = box;
    this.text = text;
    this.state = "unknown";
  }

  /** Asks from now on: often while something is wrong, and never while nobody looks. */
  start() {
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") {
        this.check();
      }
    });
    this.watch();
  }

  async watch() {
    if (document.visibilityState === "visible") {
      await this.check();
    }
    setTimeout(() => this.watch(), this.state === "healthy" ? INTERVAL_MS : TROUBLED_INTERVAL_MS);
  }

  /** Asks now; a change of state is an event. */
  async check() {
    let state = "away";
    try {
      const answer = await health();
      state = answer.status in WORDS ? answer.status : "unhealthy";
      if (state !== "healthy" && answer.foundry_status === "connected") {
        state = "degraded";
      }
    } catch {
      // no answer is an answer: the server is away
    }
    if (state !== this.state) {
      this.state = state;
      this.box.dataset.state = state;
      this.text.textContent = WORDS[state];
      this.dispatchEvent(new Event("change"));
    }
  }
}
