-- Run once, on the first primary.
\getenv password POSTGRES_PASSWORD
CREATE ROLE bulk LOGIN PASSWORD :'password';
CREATE DATABASE bulk OWNER bulk;
