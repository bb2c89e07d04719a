"""LangChain's classic agents, whose models ask for tools in words: ReAct, JSON, XML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_classic.agents import (
    AgentExecutor,
    create_json_chat_agent,
    create_react_agent,
    create_structured_chat_agent,
    create_xml_agent,
)
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable


@tool
def lookup(q: str) -> str:
    """Looks something up."""
    return {"a": "A is 1", "b": "B is 2"}.get(q.strip(), "not found here")


class Form(NamedTuple):
    """How an agent has its model ask for tools."""

    make: Callable[[Any, Any, Any], Any]
    prompt: BasePromptTemplate[Any]
    ask: str
    """Asks for `lookup` of %s."""
    final: str
    """Answers: both."""


def _block(action: str, given: str) -> str:
    return f'```json\n{{"action": "{action}", "action_input": {given}}}\n```'


REACT = PromptTemplate.from_template(
    "You have these tools: {tools}\n\nUse this format:\n\nThought: what to do\nAction: one of [{tool_names}]\n"
    "Action Input: what it is given\nObservation: what it says\nFinal Answer: your answer\n\n"
    "Question: {input}\nThought:{agent_scratchpad}"
)
XML = PromptTemplate.from_template(
    "You have these tools: {tools}\nCall one with <tool></tool> and <tool_input></tool_input>, answer between "
    "<final_answer></final_answer>.\nQuestion: {input}\n{agent_scratchpad}"
)
BLOB = (
    'Answer with {{"action": one of {tool_names} or "Final Answer", "action_input": what it is given, or your answer}}.'
)
STRUCTURED = ChatPromptTemplate.from_messages(
    [("system", "Tools: {tools}\n" + BLOB), ("human", "{input}\n\n{agent_scratchpad}\n (Answer with a JSON blob.)")]
)
JSON = ChatPromptTemplate.from_messages(
    [("system", "Tools: {tools}\n" + BLOB), ("human", "{input}"), MessagesPlaceholder("agent_scratchpad")]
)
FORMS = {
    "react": Form(create_react_agent, REACT, "So.\nAction: lookup\nAction Input: %s", "So.\nFinal Answer: both"),
    "react, quoted": Form(
        create_react_agent, REACT, 'So.\nAction 1: lookup\nAction 1 Input: "%s"\n', "So.\nFinal Answer: both"
    ),
    "structured": Form(
        create_structured_chat_agent,
        STRUCTURED,
        "Action:\n" + _block("lookup", '{"q": "%s"}'),
        _block("Final Answer", '"both"'),
    ),
    "json": Form(create_json_chat_agent, JSON, _block("lookup", '"%s"'), _block("Final Answer", '"both"')),
    "xml": Form(
        create_xml_agent,
        XML,
        "<tool>lookup</tool><tool_input>%s</tool_input>",
        "<final_answer>both</final_answer>",
    ),
}


def executor(form: str, model: Any) -> Any:
    """An agent of this form that runs."""
    chosen = FORMS[form]
    return AgentExecutor(agent=chosen.make(model, [lookup], chosen.prompt), tools=[lookup])


def script(form: str, *asked: str) -> list[str]:
    """What a model says that looks these up, one by one, and answers."""
    return [*(FORMS[form].ask % q for q in asked), FORMS[form].final]
