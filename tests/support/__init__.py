"""What several tests share: servers, clients, factories, fault injection."""
