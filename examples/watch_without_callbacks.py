"""`token_sentinel()` watches everything inside a block, embeddings by a wrapper. Runs without keys."""

from langchain_core.messages import AIMessage

from ts_langchain import SentinelEmbeddings, token_sentinel
from ts_langchain.testing import HashEmbeddings, ScriptedChatModel

model = ScriptedChatModel(script=[AIMessage("yes")])

with token_sentinel() as handler, handler.sentinel.session("ticket-17", user_id="ada"):
    for text in ("refund please", "where is my parcel", "thank you"):
        model.invoke(f"Classify this ticket. Is it a complaint, yes or no? {text}")
    embeddings = SentinelEmbeddings(HashEmbeddings(), handler.sentinel)
    embeddings.embed_documents(["the same page", "another page"])
    embeddings.embed_query("the same page")

for incident in handler.sentinel.incidents():
    print(incident.rule, incident.session_id, incident.summary, f"${incident.wasted_usd:.8f}")
assert {i.rule for i in handler.sentinel.incidents()} == {"model_misroute", "embedding_waste"}
