ALTER TABLE chunks DROP counted_with;
