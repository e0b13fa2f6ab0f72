"""The routes below /api/v1/exports: streams, export jobs, downloads.

It may import api.http, monitoring and db, but not api.imports. The files of an export job are written by the workers.
"""
