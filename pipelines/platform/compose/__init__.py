"""The platform as containers: secrets of docker-compose.yml, health checks, the tracking server's user."""

__all__ = ["stack"]
