// What went wrong, in words for people: a sentence on what happened and one on what to do.

/** A failure of the API that carries what the server said about it. */
export class ApiProblem extends Error {
  /**
   * @param {number} status HTTP status; 0 when the connection failed or broke.
   * @param {string} code The server's stable word for it, such as `engine_unavailable`.
   * @param {string} message The server's own sentence; may be empty.
   */
  constructor(status, code, message) {
    super(message || code || `HTTP ${status}`);
    this.name = "ApiProblem";
    this.status = status;
    this.code = code;
    this.said = message;
  }
}

const BY_CODE = {
  context_length_exceeded: ["This conversation is too long for the model.", "Begin a new chat, or choose a model with a larger context."],
  model_not_found: ["This model is not available any more.", "Choose another one above."],
  model_does_not_fit: ["This model does not fit into the memory for models.", "Unload another model, or raise foundry_service.memory_budget_mb."],
  model_put_aside: ["This model failed several times and was put aside.", "Choose another one, or load it again with: fastapi-foundry model load"],
  model_load_failed: ["The model could not be loaded.", "Choose another one, or try again."],
  queue_full: ["The model is busy with other requests.", "Try again in a moment."],
  engine_unavailable: ["The engine is away.", "It is being looked for and started again; try once more in a moment."],
  engine_timeout: ["The model took too long to answer.", "Try again, or ask something shorter."],
  engine_failed: ["The engine stopped in the middle of its work.", "It is being started again; try once more."],
  gateway_away: ["The server does not answer.", "Is it still running? Start it with: fastapi-foundry serve"],
  broken_off: ["The connection ended before the answer did.", "Try again."],
  invalid_api_key: ["You had been signed out.", "Sign in and try again."],
  insufficient_scope: ["Your key may not do this.", "Sign in with another one, or ask whoever runs this server for the right."],
  model_not_allowed: ["Your key is not for this model.", "Choose another one above."],
  forbidden: ["The server did not take this from this page.", "Reload the page, then try again."],
  rate_limit_exceeded: ["The limit of requests is reached.", "Wait a moment, then try again."],
  token_budget_exceeded: ["The tokens are used up.", "Ask whoever runs this server for more."],
  storage_unavailable: ["The server cannot use its database.", "Try again in a moment."],
  no_model: ["There is no model to talk to.", "Download one with: fastapi-foundry model download"],
};

const BY_STATUS = {
  400: ["The request was refused.", ""],
  401: BY_CODE.invalid_api_key,
  403: BY_CODE.insufficient_scope,
  404: BY_CODE.model_not_found,
  413: ["The message is too large.", "Send a shorter one."],
  429: BY_CODE.queue_full,
  502: BY_CODE.engine_failed,
  503: BY_CODE.engine_unavailable,
  504: BY_CODE.engine_timeout,
};

/**
 * @param {unknown} problem
 * @returns {{what: string, advice: string, said: string, code: string}}
 */
export function inWords(problem) {
  const status = problem instanceof ApiProblem ? problem.status : 0;
  const code = problem instanceof ApiProblem ? problem.code : "";
  const [what, advice] = BY_CODE[code] ?? BY_STATUS[status] ?? ["Something went wrong.", "Try again."];
  // What a program is told to send in which header is no advice for somebody at this page.
  const said = problem instanceof ApiProblem && status !== 401 ? problem.said : "";
  return { what, advice, said, code };
}
