// The model picker: what can be chosen, what state it is in, and whether it is a demonstration.

import { listModels } from "./api.js";

const KEY = "fastapi-foundry.model.1";
const STATES = { loading: "loading", in_use: "in use", put_aside: "put aside", unusable: "unusable", loaded: "loaded" };
const BARRED = new Set(["unusable"]);

export class ModelPicker extends EventTarget {
  /** @param {HTMLSelectElement} select */
  constructor(select) {
    super();
    this.select = select;
    this.models = [];
    select.addEventListener("change", () => {
      remember(select.value);
      this.dispatchEvent(new Event("change"));
    });
  }

  /** The chosen model's entry, or undefined while there is none. */
  get chosen() {
    return this.models.find((model) => model.id === this.select.value);
  }

  /** Asks the server again; keeps the choice where it still exists. Throws what the request threw. */
  async refresh() {
    const models = await listModels();
    const wanted = this.chosen?.id ?? remembered();
    this.models = models;
    const options = models.map((model) => option(model));
    if (options.length === 0) {
      options.push(new Option("No model yet", ""));
    }
    if (!sameOptions(this.select.options, options)) {
      this.select.replaceChildren(...options);
    }
    this.select.disabled = models.length === 0;
    const usable = models.filter((model) => !BARRED.has(model.state));
    const chosen = usable.find((model) => model.id === wanted) ?? usable.find(isLoaded) ?? usable[0];
    if (chosen !== undefined) {
      this.select.value = chosen.id;
    }
    this.dispatchEvent(new Event("change"));
  }
}

/** Whether this model is the bundled demonstration. */
export function isDemonstration(model) {
  return model?.demonstration === true || /^foundry-demo(:|$)/.test(model?.id ?? "");
}

/** Whether this model can answer without being loaded first. */
export function isLoaded(model) {
  return model?.state === "loaded" || model?.state === "in_use";
}

function option(model) {
  const state = STATES[model.state];
  const made = new Option(state ? `${model.id} (${state})` : model.id, model.id);
  made.disabled = BARRED.has(model.state);
  made.title = model.reason ?? "";
  return made;
}

function sameOptions(now, next) {
  return now.length === next.length && next.every((made, index) => made.text === now[index].text && made.value === now[index].value);
}

function remember(id) {
  try {
    localStorage.setItem(KEY, id);
  } catch {
    // a browser that denies storage forgets the choice, and nothing else
  }
}

function remembered() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}
