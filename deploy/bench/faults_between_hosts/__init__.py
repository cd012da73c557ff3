"""A locator and four peers on hosts of their own, faults between them, and what comes of it."""
