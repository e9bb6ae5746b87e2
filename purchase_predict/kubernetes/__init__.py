"""How does a step run as a Kubernetes Job: rendered, submitted, watched, explained, checked in its container?"""
