"""HTTP as this service speaks it: the server, middleware, problem documents, headers, streaming, OpenAPI.

It knows neither imports nor exports; both features build on it. It may import monitoring and db.
"""
