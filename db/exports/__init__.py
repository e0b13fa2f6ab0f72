"""Export jobs, the SELECT behind an export, and its file.

It may import db.queue, db.connections, db.resources and db.formats, but neither db.imports nor db.merge.
"""
