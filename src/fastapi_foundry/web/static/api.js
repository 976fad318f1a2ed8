// Every request this page makes; all of them go to the server that the page came from.

import { eventData } from "./sse.js";
import { ApiProblem } from "./words.js";

const HEALTH_LIMIT_MS = 5000;
const MODELS_LIMIT_MS = 15000;

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

async function getJson(path, limitMs, { anyStatus = false } = {}) {
  const response = await request(path, { signal: AbortSignal.timeout(limitMs), cache: "no-store" }, anyStatus);
  return await response.json();
}

async function request(path, options, anyStatus = false) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted && error.name === "AbortError") {
      throw error;
    }
    throw new ApiProblem(0, "gateway_away", "");
  }
  if (!response.ok && !anyStatus) {
    throw await readProblem(response);
  }
  return response;
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
