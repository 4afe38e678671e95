"""The adapter to SGLang: host object to view, call the core, apply the decision.

The only package that imports sglang in a live server, and imported only when asked for.
"""
