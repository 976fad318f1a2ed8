// Every request this page makes; all of them go to the server that the page came from.

import { eventData } from "./sse.js";
import { ApiProblem } from "./words.js";

const HEALTH_LIMIT_MS = 5000;
const SESSION_LIMIT_MS = 10_000;
const MODELS_LIMIT_MS = 15_000;
const SESSION = "/api/v1/session";

/** What the server asks of every change that a signed-in browser sends; empty while nobody is signed in. */
let csrf = "";
let onRefused = () => {};

/** Calls `act` with an ApiProblem whenever the server does not know any more who asks. */
export function whenRefused(act) {
  onRefused = act;
}

/** Who this browser is: {signed_in, needed, name, scopes, csrf, expires_at}. */
export async function getSession() {
  return await sessionOf("GET");
}

/**
 * Signs in.
 * @param {{key: string}|{link: string}} credentials
 */
export async function openSession(credentials) {
  return await sessionOf("POST", credentials);
}

/** Signs out. */
export async function closeSession() {
  return await sessionOf("DELETE");
}

/** The models that can chat: [{id, state, reason, demonstration, context_length, ...}]. */
export async function listModels() {
  const answer = await getJson("/v1/models", MODELS_LIMIT_MS);
  const models = Array.isArray(answer.data) ? answer.data : [];
  return models.filter((model) => typeof model.id === "string" && model.task !== "embeddings");
}

/** The gateway's health: {status, foundry_status, models_count, ...}. */
export async function health() {
  return await getJson("/api/v1/health", HEALTH_LIMIT_MS, { anyStatus: true });
}

/**
 * Streams one answer.
 * @param {string} model
 * @param {{role: string, content: string}[]} messages
 * @param {AbortSignal} signal Ends the request, and with it the model's work.
 * @returns {AsyncGenerator<{text?: string, finish?: string, usage?: object, model?: string}>}
 */
export async function* streamAnswer(model, messages, signal) {
  const response = await request("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let ended = false;
  try {
    for await (const data of eventData(response.body)) {
      if (data === "[DONE]") {
        ended = true;
        break;
      }
      yield readChunk(data);
    }
  } catch (error) {
    throw signal.aborted || error instanceof ApiProblem ? error : new ApiProblem(0, "broken_off", "");
  }
  if (!ended) {
    throw new ApiProblem(0, "broken_off", "");
  }
}

function readChunk(data) {
  const chunk = JSON.parse(data);
  if (chunk.error) {
    throw new ApiProblem(0, chunk.error.code ?? "engine_failed", chunk.error.message ?? "");
  }
  const choice = chunk.choices?.[0];
  return {
    model: typeof chunk.model === "string" ? chunk.model : undefined,
    text: typeof choice?.delta?.content === "string" ? choice.delta.content : undefined,
    finish: choice?.finish_reason ?? undefined,
    usage: chunk.usage ?? undefined,
  };
}

async function sessionOf(method, body) {
  const options = { method, signal: AbortSignal.timeout(SESSION_LIMIT_MS), cache: "no-store" };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  const session = await (await request(SESSION, options)).json();
  csrf = session.csrf ?? "";
  return session;
}

async function getJson(path, limitMs, { anyStatus = false } = {}) {
  const options = { method: "GET", signal: AbortSignal.timeout(limitMs), cache: "no-store" };
  return await (await request(path, options, anyStatus)).json();
}

async function request(path, options, anyStatus = false) {
  const changes = options.method !== "GET";
  const sent = csrf;
  let response = await reach(path, options, changes);
  if (response.status === 403 && changes) {
    await getSession().catch(() => {}); // somebody may have signed in anew in another tab
    response = csrf === sent ? response : await reach(path, options, changes);
  }
  if (!response.ok && !anyStatus) {
    const problem = await readProblem(response);
    if (response.status === 401 && path !== SESSION) {
      onRefused(problem);
    }
    throw problem;
  }
  return response;
}

async function reach(path, options, changes) {
  const headers = changes && csrf !== "" ? { ...options.headers, "x-csrf-token": csrf } : options.headers;
  try {
    return await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted && error.name === "AbortError") {
      throw error;
    }
    throw new ApiProblem(0, "gateway_away", "");
  }
}

async function readProblem(response) {
  try {
    const { error, detail, code } = await response.json();
    if (error !== null && typeof error === "object") {
      return new ApiProblem(response.status, error.code ?? "", error.message ?? "");
    }
    return new ApiProblem(response.status, code ?? "", typeof detail === "string" ? detail : "");
  } catch {
    return new ApiProblem(response.status, "", "");
  }
}
