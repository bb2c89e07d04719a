"""What was found, written to where people look: annotations on recorded runs, events for a TokenSentinel cloud.

Here is what does not depend on a service: what is written, and the record of it. Whoever talks to a service is found by
the entry-point group `ts_langchain.deliveries`.
"""
