"""One module for each thing outside: Cloudflare, DynamoDB, Secrets Manager, EventBridge, logs."""
