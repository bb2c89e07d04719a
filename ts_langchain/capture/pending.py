"""Does a tool's answer say that something is still under way? Whoever gets it does well to ask again.

A word alone says nothing (`running shoes`, `getting started`): it has to be the whole answer, stand behind `status:`,
or be said of a job, a build, an export.
"""

from __future__ import annotations

import re

import orjson

PENDING_CHARS = 500
OBJECT_CHARS = 8_000
SHORT_CHARS = 80
SUBJECT_CHARS = 60

_STATES = (
    "pending", "queued", "queue", "submitted", "scheduled", "progress", "running", "processing", "waiting", "starting",
    "building", "creating", "provisioning", "deploying", "loading", "generating", "indexing", "syncing", "initializing",
    "initialising", "uploading", "downloading", "validating", "preparing", "transcribing", "rendering", "training",
    "executing", "crawling", "compiling", "importing", "exporting", "progressing", "warming", "awaiting",
)  # fmt: skip
_ELSEWHERE = (
    "läuft noch", "noch nicht fertig", "noch nicht bereit", "noch nicht abgeschlossen", "wird bearbeitet",
    "wird verarbeitet", "wird noch", "in bearbeitung", "in arbeit", "in der warteschlange", "ausstehend", "en cours",
    "en attente", "pas encore prêt", "pas encore terminé", "en curso", "en proceso", "pendiente", "procesando",
    "in corso", "in attesa", "in elaborazione", "em andamento", "pendente", "processando",
    "处理中", "處理中", "进行中", "進行中", "等待中", "排队中", "运行中", "尚未完成", "処理中", "実行中", "待機中",
    "保留中", "처리 중", "처리중", "진행 중", "진행중", "대기 중", "대기중",
)  # fmt: skip
# nearly all answers have none of these words, and nothing more is looked at
_WORD = re.compile("[a-z]+|%")
_MAYBE = frozenset({
    *_STATES, "inprogress", "started", "accepted", "not", "t", "false", "being", "%", "check", "yet", "wait", "percent",
    "working", "catching", "containercreating", "requires", "unpaid", "authorization",
})  # fmt: skip
_ABROAD = frozenset({word for phrase in _ELSEWHERE for word in phrase.split() if word.isascii() and len(word) > 3})

# Stripe's payments wait for the customer
_PHRASES = (
    "in[ _-]?(?:the[ _-])?queue",
    "in[ _-]?progress",
    "requires[ _-](?:action|capture|confirmation|payment[ _-]method)",
)
_DOING = "|".join((*_PHRASES, *(state for state in _STATES if state not in ("queue", "progress"))))
_NOT_YET = r"(?:\bnot|n't)[ _-](?:yet[ _-])?(?:ready|finished|done|completed?|available)"
_STATE = rf"(?:{_DOING}|started|accepted|{_NOT_YET})"
# what may be under way (`StackStatus`, `life_cycle_state`); orders and customers have a status, too
_JOBS = (
    r"(?:async|batch|build|check|cluster|crawl|current|db_?instance|deploy(?:ment)?|execution|export|import|index(?:ing)?|"
    r"ingestion|instance|job|life_?cycle|operation|pipeline|process(?:ing)?|provisioning|query|ready|render|rollout|run|"
    r"scan|stack|sync|task|test|training|transcription_?job|transfer|upload|validation|workflow)_?"
)
_KEY = rf"[\"'](?:{_JOBS})?(?:status|state|phase|stage)[\"']\s*:"
# `status: running`, `"phase": "IN_QUEUE"`, `<status>running</status>`
_NAMED = re.compile(
    rf"(?:{_KEY}|\b(?:{_JOBS})?(?:status|state|phase|stage|progress|health)\b[\"']?\s*(?:[:=>]|\bis\b))\s*[\"']?"
    rf"(?:\w+[._])?{_STATE}(?![^\W_])"
)
# of an object with much to say: what a product, a contract or a person is hardly ever
_OWN = re.compile(
    r"(?:\w+_)?(?:in[ _-]?progress|running|queued|building|creating|provisioning|deploying|starting)(?:_\w+)?"
)
_ENDS = ('tatus"', 'tate"', 'hase"', 'tage"')
_OWN_NAME = re.compile(rf"(?:{_JOBS})?(?:status|state|phase|stage)")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])")
# `"is_running": true`, `"done": false`
_FLAG = re.compile(
    r"[\"']payment_status[\"']\s*:\s*[\"']unpaid[\"']|[\"'](?:is_?)?(?:(?:running|pending|processing|queued|in_?progress)[\"']\s*:\s*true|"
    r"(?:done|finished|completed?|ready)[\"']\s*:\s*false)"
)
_PERCENT = re.compile(
    r"\b\d{1,2}(?:\.\d+)?\s?%\s*(?:complete|done|finished|processed)|\bprogress[\"']?\W+\d{1,2}(?:\.\d+)?\s?%|"
    r"\b\d{1,2}(?:\.\d+)?\s?%\s*[\[|(]?\s*[=#█▉>]|"
    r"[\"'](?:percent(?:age)?_?complete|queue_?position)[\"']\s*:\s*(?:[1-9]\d?(?:\.\d+)?|0?\.\d+)\s*[,}]|"
    r"[\"']progress[\"']\s*:\s*0?\.\d+\s*[,}]"
)
# `not found yet`, `No result yet.`, `Please wait while …`, `Waiting for deployment "web" rollout to finish`
_SOON = re.compile(
    r"(?:\bnot|n't)(?: \w+)? (?:been )?(?:ready|finished|completed?|done|found|propagated|started|processed|built|"
    r"generated|deployed|indexed|uploaded|delivered|arrived|settled|reachable|responding) yet\b|\Anot yet\W*\Z|"
    r"\bno (?:results?|responses?|repl(?:y|ies)|answers?|updates?|data|output)(?: \w+)? yet\b|"
    r"\bplease wait\W+(?:while|your|generating|loading|processing|preparing)\b|\A\W*still (?:working|waiting)\b|"
    r"\A\W*waiting (?:for|on) (?:the )?(?:deployment|rollout|pods?|jobs?|builds?|servers?|services?|containers?|"
    r"instances?|stacks?|clusters?|nodes?|checks?|approval|confirmation|condition|tasks?)\b|"
    r"\b202 accepted\b|\bauthorization_pending\b|: catching up\b|\b\d+/\d+ +(?:pending|container_?creating|init:)"
)
_WHOLE = re.compile(
    rf"\W*(?:(?:still|currently|now)\W+)?{_STATE}(?:\W+(?:\d+|of|please|wait|yet|now|position|eta|left|remaining|"
    r"minutes?|min|seconds?|sec|s|complete|done))*\W*\Z"
)
# `not ready yet`, `Job 7: queued`
_ENDING = re.compile(rf"(?:{_NOT_YET}(?:\W+yet)?|(?:[:=]|->|→)\s*[\"']?{_STATE})\W*\Z")
_IS = re.compile(
    r"\b(is|are|has been|have been|still|currently|remains?)(?:\W+(?:still|currently|being|now|in|the|a))*"
    rf"(?:\W+(?:{_DOING})|[ ']?{_NOT_YET}|(?<=being) (?:\w+ed|built|made))\b"
)
_SUBJECT = re.compile(
    r"\b(?:jobs?|tasks?|builds?|deploy(?:ment)?s?|exports?|imports?|runs?|quer(?:y|ies)|process(?:es)?|requests?|"
    r"orders?|uploads?|downloads?|reports?|pipelines?|operations?|batch(?:es)?|transfers?|payments?|transactions?|"
    r"scans?|tests?|workflows?|crawls?|migrations?|backups?|simulations?|transcriptions?|conversions?|videos?|images?|"
    r"results?|data|files?|servers?|instances?|clusters?|environments?|containers?|pages?|rollouts?|"
    r"stacks?|replicas?|pods?|nodes?|it)\b(?:\W+\w+){0,4}\W*\Z"
)


def reads_pending(text: str) -> bool:
    """True for a short answer that says that something is still under way."""
    if not text:
        return False
    if len(text) > PENDING_CHARS:
        return text[0] == "{" and len(text) <= OBJECT_CHARS and _object_says_so(text)
    words = _WORD.findall(text.lower())
    if not _MAYBE.isdisjoint(words) and _says_so(_snake(text)):
        return True
    text = text.lower()
    if len(text) > SHORT_CHARS or (text.isascii() and _ABROAD.isdisjoint(words)):
        return False
    return any(phrase in text for phrase in _ELSEWHERE)


def _says_so(text: str) -> bool:
    if _WHOLE.match(text) or _NAMED.search(text) or _FLAG.search(text) or _PERCENT.search(text):
        return True
    if "check back" in text or _ENDING.search(text) or _SOON.search(text):
        return True
    for said in _IS.finditer(text):
        start = said.start()
        if "still" in said[0] or _SUBJECT.search(text[max(0, start - SUBJECT_CHARS) : start]):
            return True
    return False


def _object_says_so(text: str) -> bool:
    """True if an object with a lot to say names a state of its own, and in it is under way."""
    if not any(map(text.__contains__, _ENDS)):
        return False
    try:
        value = orjson.loads(text)
    except ValueError:
        return False
    own = [(_snake(name), said.lower()) for name, said in value.items() if isinstance(said, str)]
    return any(_OWN_NAME.fullmatch(name) is not None and _OWN.fullmatch(said) is not None for name, said in own)


def _snake(text: str) -> str:
    """`StackStatus` as `stack_status`, and all in small letters."""
    return _CAMEL.sub("_", text).lower()
