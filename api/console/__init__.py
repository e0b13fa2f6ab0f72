"""The console: the pages that people open in a browser, and the API reference at /docs.

The pages are a client of `/api/v1`: the server sends the same shell and static files for every address, and the scripts in
`assets` do the rest. May import `api.http`; the API's features do not know the console.
"""
