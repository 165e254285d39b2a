"""Beginnings of Korean words, and the English word that the learned router knows for the same thing.

Korean joins endings to its words, so that the beginning is looked up, the longest first. The labels that the router was trained on
are in English: without this, nothing learned of a subject would hold for a Korean prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_PAIRS: Final = """
증명 prove|정리 theorem|적분 integral|미분 derivative|함수 function|방정식 equation|확률 probability|행렬 matrix|벡터 vector|수열 sequence
|극한 limit|집합 set|정수 integer|소수 prime|다항식 polynomial|삼각형 triangle|원의 circle|넓이 area|부피 volume|평균 average|분산 variance
|통계 statistics|기하 geometry|대수 algebra|계산 calculate|얼마 much|몇 many|합계 total|총 total|나머지 remainder|비율 ratio|백분율 percent
|퍼센트 percent|분수 fraction|곱 product|나누 divide|더하 add|절반 half|배 times|가격 price|비용 cost|원에 won|시간 hours|분에 minutes
|속도 speed|거리 distance|질량 mass|에너지 energy|전자 electron|원자 atom|분자 molecule|화학 chemistry|반응 reaction|산화 oxidation
|물리 physics|양자 quantum|전기 electric|자기장 magnetic|파장 wavelength|온도 temperature|압력 pressure|열역학 thermodynamics
|세포 cell|유전자 gene|단백질 protein|효소 enzyme|진화 evolution|생물 biology|세균 bacteria|바이러스 virus|환자 patient|진단 diagnosis
|치료 treatment|증상 symptoms|약물 drug|질병 disease|혈액 blood|심장 heart|뇌 brain|신경 nerve|근육 muscle|의학 medicine|임상 clinical
|법률 law|법원 court|계약 contract|소송 lawsuit|피고 defendant|원고 plaintiff|범죄 crime|헌법 constitution|조약 treaty|판사 judge
|책임 liability|증거 evidence|재산 property|권리 right|경제 economics|시장 market|수요 demand|공급 supply|물가 inflation|금리 interest
|은행 bank|투자 investment|주식 stock|채권 bond|회계 accounting|세금 tax|이익 profit|매출 revenue|기업 company|경영 management
|마케팅 marketing|고객 customer|심리 psychology|행동 behavior|인지 cognitive|사회 society|정치 political|정부 government|선거 election
|역사 history|전쟁 war|세기 century|제국 empire|혁명 revolution|철학 philosophy|윤리 ethics|도덕 moral|논리 logic|논증 argument
|종교 religion|문학 literature|소설 novel|시인 poet|지리 geography|국가 country|도시 city|인구 population|수도 capital
|코드 code|프로그램 program|알고리즘 algorithm|파이썬 python|변수 variable|배열 array|리스트 list|문자열 string|정렬 sort|재귀 recursive
|출력 output|입력 input|컴퓨터 computer|네트워크 network|데이터 data|보안 security|암호 encryption|메모리 memory|운영체제 operating
|기계학습 learning|신경망 neural|모델 model|학습 training|다음 following|무엇 what|어떤 which|왜 why|어떻게 how|설명 explain|비교 compare
|번역 translate|요약 summarize|분류 classify|추출 extract|작성 write|이유 reason|옳은 correct|틀린 incorrect|아닌 not|모두 all
|참 true|거짓 false|가장 most|경우 case|결과 result|원인 cause|문제 question|답 answer|선택 choose|학생 students|사람 people
"""
GLOSSARY: Final[Mapping[str, str]] = MappingProxyType(dict(pair.rsplit(maxsplit=1) for pair in _PAIRS.replace("\n", "").split("|")))
LONGEST_TERM: Final = max(map(len, GLOSSARY))
SHORTEST_TERM: Final = min(map(len, GLOSSARY))
