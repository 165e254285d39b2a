"""Three letters in a row that tell a language of Latin letters from its neighbours; `_` is the end of a word.

Counted in half of the messages of Django's catalogues (BSD licence, 2026-11): those that make a language at least four times as
likely as chance, the most frequent first. `benchmarks.policy_quality.signals` measures on the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

TRIGRAMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "en": "ed_ the use he_ add ith umb day thi ted th_ ly_ ish swo wor ow_ ssw his ct_ lea was ay_ not sh_ ian ddr ary shi cts"
        " mbe ry_ nsh hip nkn wn_ kno dd_ gai new wo_ teg lue han up_ lly uly ear ful ssf sfu you ons rom oun my_ _my ime _us"
        " tim alu rch ple ss_ _of of_ uir _wh ubm bmi sub low tog ggl be_ ew_ jec arc ded esd wed",
        "de": "ein sch ch_ ben isc rt_ eit ert ung zei ich ebe bit ahl zah ült gül hen hl_ anz kei _zu tze die geb che _ei ht_ der"
        " nge _ze eic tte _gü wer rei ösc etz utz neu sei itt tig cht erf füg nzu wäh ähl ort _fü hal hre inz zur aus ige hle"
        " _we gen rfo _zw für ür_ nnt tzt eän geä uss ies ine mit nzz von hrz uhr _uh nze wur _wu",
        "fr": "eur ur_ onn _l_ sse de_ sai _à_ ez_ _n_ tio iqu _dé jou mot les ais sez nom _le pas our té_ _ré teu sup iss omb bre"
        " une ée_ _sé éle _d_ ppr cti sat out jet auc ucu aba gab que leu mbr tre aîn haî îne ure heu ux_ _ét été ajo _aj pou"
        " sél act ot_ tou upp _ce vec êtr eux deu ouv ous èle dèl odè ide isa cun isi un_ ère _êt",
        "es": "ón_ ión ció aci señ eña os_ ña_ cci ase ras ecc fec io_ ntr con no_ _co do_ sua rio uzc zca _el los ado ngr nue tra"
        " uar ha_ _es ont uev ero cad áli sió iem _y_ iar ro_ cio ina cla por _la ido hor _vá usu noc lim cam ued pue tab ios"
        " gre bre duz una mbi cac vál ico co_ oci ayo dos ech lac úme cid yo_ iso agr núm _nú ora",
        "pt": "ão_ ção açã do_ não _nã _um enh ado ra_ eir nha os_ ões ári pal cio iro vra ro_ uma ês_ ar_ uza ço_ lav avr ha_ emo"
        " rem da_ _é_ ira bro mov raç nhu hum çõe taç suá uár sõe núm _nú úme áli eci dor caç rio oi_ foi são ssõ _o_ com ora"
        " ido içã açõ io_ _vá ona adi _ou vál anh eço reç nhe onh teú údo eúd hav efi def par tá_",
        "it": "zio azi sci to_ _è_ ggi nse ti_ non _il one di_ tto _di agg izz _og gli ato gge taz so_ anc ci_ ris ins ess ogg gio"
        " giu nuo uov _qu ser swo wor ssw ssu iut lez due cco can acc gi_ tut orn zo_ cel tti oni _ca un_ sce zzo laz iat ciu"
        " mmi ute ore odi dif ito mpo get lug riz utt ale ero lor ues zza raz _sc mag può uò_ rgo",
        "nl": "oor een _ge eer en_ voe ijd wac woo htw _ee ach wij two aar tie oer aan cht eld gee _wa _aa ebr _vo tij ijn van gev"
        " uik rui jn_ eke erw hee jde naa wee ree ard rwi uw_ ken uit _zi ijz zig jzi dig ehe gel ege gd_ waa zij jd_ aam euw"
        " ieu _sj sja jab ven _op erd mee geh voo oeg eek bes toe ldi evo geb geg oud onb _ui ijk",
        "sv": "ska ka_ öse änd nor för _fö ör_ _vä _lö ll_ _fy fyl lös gil tt_ är_ eno ärd nvä anv vän _är isk yll sen dra era cka"
        " _än tig vär ade det igt _i_ väl ats amn ill ad_ rad dar kad läg ägg älj lj_ bpl bbp ebb mn_ gt_ nin ndr _må tta fäl"
        " mås äng kic _hä lls två _tv vå_ _an ick ga_ _et var och nda trä rän _fä okä kän frå yck",
        "da": "sk_ kke gyl yld _ik _gy ndt _væ ke_ vær ikk sjo asj adg dga gsk _sk ære uke opp sko avn _br ngs isk dta _bl kod sle"
        " rdi pgi ppg ruk bru ede ig_ nav og_ elt dli vn_ dig ndl rug til _er af_ dt_ skr ger ind nsk ærd lg_ nn_ end sor _sl"
        " ldi hel gst nnl jon sid inn ndr sso kst lev nli ids kab lfø ilf for _på lse tas ler kal",
        "pl": "nie ie_ owa ki_ kow ski _wy raw wan ło_ acj dzi asł pra wie wni rze ny_ awn icz prz ńsk sło pop nik aj_ czb toś war"
        " ji_ _po owi ści ani opr own tko rto nia ron cji żyt ytk uży _ni _wp _uż jes ną_ wyb ośc cja zys iek bie pis ść_ ów_"
        " _dz zmi _w_ cz_ naz azw has szy wpi zos tał dod ego yst łąc ącz _cz oda mie tni ony zna",
        "cs": "ní_ ky_ slo sky _př esl ení hes jte ejt dej vat hod zad živ uži lo_ dno _čí né_ _už ísl čís ný_ lož _ne ná_ byl atn"
        " _za odn šti neb čas při ožk pol _vy _ča vyb led něn prá ráv pře _od ota ně_ ová měn změ pro olo iva pu_ ypu ové _vš"
        " vše ván ods uje _ša šab nou ou_ elé lé_ bo_ ebo tná ýt_ vé_ ání eby obn _he je_ not _s_",
        "tr": "ayı bir değ eği ler geç çer anı ir_ yı_ iri say gir ola lar şti arı _iç _bi eçe _gö tir _tü rli ası çin ıcı içi ğiş"
        " lam erl adı rih işt rol eri ild ğil ır_ alı lı_ _sü esn sne nıc rum ama aro sı_ _sı rı_ cı_ _ey eyl _ek lan kul _ot"
        " ilm leş seç _ay baş şar otu _bu tür eğe ğer dı_ ekl süz şab _şa bu_ ri_ lma ını ız_ rün",
        "vi": "ng_ _th _kh _nh thá áng hán ập_ ông _ng ếng iến tiế nhậ hôn ật_ nh_ hập khô ẩu_ _mậ mật hẩu khẩ _ch ày_ ên_ ác_ có_"
        " _có ời_ ại_ một _mộ ột_ số_ _số _đư gày ngà đã_ _đã lại _lạ _ph _hợ ợp_ hợp _đị chỉ _và _nà ợc_ _cá đượ ược ào_ ạn_"
        " óa_ ười ới_ ổi_ _đổ đổi ủa_ của _củ _sử ăng _đă đăn _tư _lệ lệ_ họn chọ ọn_ ối_ _xó xóa",
        "id": "an_ kan dak ah_ ngg ang asi asu suk eng yan ila _ya nga ak_ bah gan lih tid mas si_ pen uk_ pil ggu ukk ntu san gal"
        " ndi apu hap tuk uka and ida aru wak lah itu us_ tan tau uba kka mba tu_ iha nil dik aka _di lan _pe di_ kas ama gga"
        " pus bua uah pa_ hka bun emu ua_ gun ngk rka buk ahk mua at_ ih_ ada lai ber aks tus sem",
        "fi": "tä_ äyt _tä kuu ttu ämä ttä _pä lli asa luk än_ ei_ uku aa_ _sy aik uut isä ana oll sal äjä ivu siv mää äär _ei arv"
        " rvo ärä täj tun kki eet syö ötä oik _oi yöt oko kok äiv ivä päi vii uu_ koh käy nai poi suo täm ää_ unn _nä _kä vai"
        " jä_ ään llä tai hte _ol kel lee väm uus toi ät_ ude ois san las tet tee kea tty aih oht",
        "ro": "tă_ nă_ ată are _în ți_ ați eți ul_ ană duc zat ză_ _nu iza ntr ceț nu_ ru_ lă_ uce odu iun uri olă să_ re_ num eză"
        " cu_ fos ște cți imb him rol rod aro liz ră_ dă_ idă _și țiu ii_ _șt în_ uă_ ouă _șa rea ția fiș umă măr înt ție taț"
        " șab siu loa că_ și_ ții _cu par ea_ rie uti bă_ ină esă oar oră iul acț dou tor iec cta",
        "hu": "meg jel _eg gy_ egy _sz _ér lsz tás _tö asz ény sze szt érv vén rvé átu szó nem eg_ szá zám ása zó_ tör djo adj nye"
        " ás_ _dá dát áci ése _me _kö _né idő zés és_ ész agy ítá ssz ált szn nál els ok_ _a_ _je yes ét_ rté ért _ké tés lés"
        " cs_ hoz lha áló elh len ió_ bb_ vag ték sít cso lap örl ány _új szű zűr _az zná _má sa_",
    }
)
