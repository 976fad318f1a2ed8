// Shows the description of the API to whoever may read it.

const SESSION = "/api/v1/session";

async function session() {
  return await (await fetch(SESSION, { cache: "no-store" })).json();
}

/** A browser that has signed in on the chat page has to show with each change that the change comes from our page. */
async function withCsrf(request) {
  if (!["GET", "HEAD"].includes(request.method ?? "GET")) {
    const { csrf } = await session();
    if (csrf) {
      request.headers["x-csrf-token"] = csrf;
    }
  }
  return request;
}

async function start() {
  const { needed, signed_in: isSignedIn } = await session();
  if (needed && !isSignedIn) {
    document.getElementById("sign-in").hidden = false;
    return;
  }
  // validatorUrl: Swagger UI would otherwise ask a server on the internet whether the document is valid.
  window.SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    showExtensions: true,
    showCommonExtensions: true,
    validatorUrl: null,
    requestInterceptor: withCsrf,
  });
}

start();
