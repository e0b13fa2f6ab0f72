ALTER TABLE export_jobs DROP watermark, DROP changed_since;
