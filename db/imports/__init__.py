"""Import jobs and their chunks: uploads, completion, error records, retention.

This file stays empty: `payload` and others are imported by code that has no database.
It may import db.queue, db.connections and db.resources, but neither db.merge nor db.exports.
"""
