// The API reference: Swagger UI, with the service's OpenAPI document and the key of this tab.

addEventListener("DOMContentLoaded", () => {
  const key = sessionStorage.getItem("bulk.key")
  SwaggerUIBundle({
    url: "/schema/openapi.json",
    dom_id: "#reference",
    deepLinking: true,
    validatorUrl: null,
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    syntaxHighlight: { activated: false },
    requestInterceptor: (request) => {
      if (key && !request.headers.Authorization && !request.headers["X-API-Key"]) {
        request.headers.Authorization = `Bearer ${key}`
      }
      return request
    },
  })
})
