"""Every code the service is known to answer, with its words, and how each family wraps them.

The facts are those of the error tables (API Error Code Reference, model-API errors); nothing in
this file knows about tasks or HTTP. A code no table explains is answered with the table's word
for the unknown.
"""

from __future__ import annotations

from typing import Any, Final, Literal

__all__ = [
    "GATEWAY",
    "NO_APP",
    "NO_USER",
    "Family",
    "code_in",
    "identifier",
    "refusal",
    "says",
    "text_of",
]

#: Who asks decides the form of an answer: `v1` the older envelope, `v2` task answers, `query` the
#: same with its task fields, `msg` and `message` the two spellings of the management envelope.
Family = Literal["v1", "v2", "query", "msg", "message"]

#: Codes of the older endpoints. With some the service sends no identifier, only a sentence.
_IDENTIFIERS: Final = {
    "-1": "ApiKey verification failed",
    "1": "task cannot cancel",
    "301": "PARAMS_INVALID",
    "380": "WORKFLOW_NOT_EXISTS",
    "401": "ApiKey verification failed",
    "403": "no permission",
    "412": "TOKEN_INVALID",
    "414": "TASK_CREATE_FAILED_BY_NOT_ENOUGH_POWER_VALUE",
    "415": "TASK_INSTANCE_MAXED",
    "416": "TASK_CREATE_FAILED_BY_NOT_ENOUGH_WALLET",
    "421": "TASK_QUEUE_MAXED",
    "423": "TASK_NOT_FOUNED",
    "433": "VALIDATE_PROMPT_FAILED",
    "435": "TASK_USER_EXCLAPI_INSTANCE_NOT_FOUND",
    "436": "TASK_USER_EXCLAPI_REQUIRED",
    "500": "UNKNOWN_ERROR",
    "605": "Your balance is insufficient",
    "801": "APIKEY_UNSUPPORTED_FREE_USER",
    "802": "APIKEY_UNAUTHORIZED",
    "803": "APIKEY_INVALID_NODE_INFO",
    "804": "APIKEY_TASK_IS_RUNNING",
    "805": "APIKEY_TASK_STATUS_ERROR",
    "806": "APIKEY_USER_NOT_FOUND",
    "807": "APIKEY_TASK_NOT_FOUND",
    "808": "APIKEY_UPLOAD_FAILED",
    "809": "APIKEY_FILE_SIZE_EXCEEDED",
    "810": "WORKFLOW_NOT_SAVED_OR_NOT_RUNNING",
    "811": "CORPAPIKEY_INVALID",
    "812": "CORPAPIKEY_INSUFFICIENT_FUNDS",
    "813": "APIKEY_TASK_IS_QUEUED",
    "814": "PERSONAL_QUEUE_COUNT_LIMIT",
    "901": "WEBAPP_NOT_EXISTS",
}

#: What the newer endpoints say: English, then Chinese, as they do.
_TEXTS: Final = {
    "421": "api queue limit reached, please retry later | API 并发数已达上限，请降低并发或稍后重试",
    "414": "Insufficient coins | RH币不足",
    "416": "Insufficient wallet balance | 钱包余额不足",
    "605": "Your balance is insufficient | 您的余额不足",
    "806": "API key user not found | API Key对应的用户不存在",
    "812": "Insufficient enterprise balance | 企业余额不足",
    "1000": "unknown error",
    "1001": "Invalid URL | 无效的URL",
    "1002": "Invalid API key | 无效的API密钥",
    "1003": "Rate limit exceeded | 请求过于频繁",
    "1004": "Task not found, please check the task ID | 任务不存在或已过期，请检查任务ID",
    "1005": "Internal server error | 服务器内部错误",
    "1006": "Task execution timed out | 任务执行超时",
    "1007": "Invalid parameters | 参数错误",
    "1008": "File size limit exceeded | 文件大小超限",
    "1009": "HTTP method not supported | 不支持的请求方法",
    "1010": "Service unavailable | 服务不可用",
    "1011": "System busy | 系统繁忙",
    "1012": "Upstream service exception | 上游服务异常",
    "1013": "File processing failed | 文件处理失败",
    "1014": "Standard models need an enterprise-shared key | 标准模型仅支持企业共享APIKEY",
    "1015": "Generation failed, please try again | 生成失败，请重试",
    "1101": "Node info error | 节点信息错误",
    "1501": "Content verification failed, please modify the input | 内容审核未通过",
    "1504": "Model response timed out | 模型响应超时",
    "1505": "Photorealistic real people are prohibited | 禁止真人写实内容",
    "1520": "Concurrent task limit reached | 并发任务数已达上限",
    "1601": "ApiKey verification failed",
}

#: HTTP 401 with this code is how the gateway refuses a key, whatever it was asked.
GATEWAY: Final = "-1"


#: How the older endpoints refuse a wrong key, or one of the other site: a code and its text.
NO_USER: Final = ("301", "user not exist")

#: How they refuse an app that does not exist; the newer ones answer 901.
NO_APP: Final = ("1", "webapp not exists")


def identifier(code: str) -> str:
    """The word that goes with a code in the older envelope."""
    return _IDENTIFIERS.get(code) or _TEXTS.get(code, "UNKNOWN_ERROR")


def text_of(code: str) -> str:
    """The sentence that goes with a code in a newer answer."""
    return _TEXTS.get(code) or _IDENTIFIERS.get(code, "unknown error")


def refusal(code: str, text: str = "") -> dict[str, Any]:
    """How a v2 submit is refused: nothing but a code and its text."""
    return {"errorCode": code, "errorMessage": text or text_of(code)}


def says(family: Family, code: str, text: str = "") -> tuple[dict[str, Any], int]:
    """The answer that carries `code` in this family's envelope, and its HTTP status."""
    if code == GATEWAY:
        return {"code": -1, "msg": text or identifier(code)}, 401
    if family == "v2":
        return refusal(code, text), 200
    if family == "query":
        return {"taskId": "", "status": "", **refusal(code, text), "results": None}, 200
    number = int(code) if code.lstrip("-").isdecimal() else 500
    if family == "v1":
        words = text or identifier(code)
        return {"code": number, "msg": words, "errorMessages": None, "data": None}, 200
    return {"code": number, family: text or identifier(code), "data": None}, 200


def code_in(answer: Any) -> str:
    """The code of an answer of any family; empty where it reports no error."""
    if not isinstance(answer, dict):
        return ""
    if answer.get("errorCode"):
        return str(answer["errorCode"])
    code = str(answer.get("code") or "")
    # The upload of the .ai site answers 200 where that of the .cn site answers 0.
    return "" if code in ("0", "200") else code
