DROP VIEW webhook_health;
DROP TABLE webhook_deliveries;
