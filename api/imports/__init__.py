"""The routes under /api/v1/imports: receiving a file, splitting it into chunks, showing and changing jobs.

It may import api.http, monitoring and db, but not api.exports; the workers merge, the API never does.
"""
