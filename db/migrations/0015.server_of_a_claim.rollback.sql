ALTER TABLE chunks DROP server_since;
DROP FUNCTION primary_since();
