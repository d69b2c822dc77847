#!/usr/bin/env bash
# The fonts of data.source=glyphs (docs/data.md): downloads Debian's font packages and unpacks them
# into a folder. Nothing is installed, and root is not needed.
#
#     scripts/fetch_glyphs.sh FOLDER
#
# Needs apt-get and dpkg (Debian 12 or later, Ubuntu) and about 190 MB of downloads. Packages that are
# already unpacked in FOLDER are skipped. Packages that
# the release does not have are named at the end: the set then differs, and so does its fingerprint.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
cd "$1"

PACKAGES=(
    fonts-adf-{accanthis,baskervald,berenis,gillius,ikarius,irianis,libris,mekanus,oldania,romande}
    fonts-adf-{solothurn,switzera,tribun,universalis,verana}
    fonts-aenigma fonts-agave fonts-allerta fonts-anonymous-pro fonts-arapey
    fonts-averia-gwf fonts-averia-sans-gwf fonts-averia-serif-gwf fonts-b612 fonts-bebas-neue
    fonts-beteckna fonts-blankenburg fonts-breip fonts-bwht fonts-cabin fonts-cantarell fonts-cardo
    fonts-clear-sans fonts-cmu fonts-comfortaa fonts-comic-neue fonts-compagnon fonts-courier-prime
    fonts-croscore fonts-crosextra-caladea fonts-crosextra-carlito fonts-dancingscript
    fonts-dejavu-core fonts-dejavu-extra fonts-dkg-handwriting fonts-dosis fonts-dustin
    fonts-ebgaramond fonts-ebgaramond-extra fonts-ecolier-court fonts-elstob fonts-essays1743
    fonts-eurofurence fonts-fantasque-sans fonts-fanwood fonts-femkeklaver fonts-firacode
    fonts-freefont-ttf fonts-georgewilliams
    fonts-gfs-{artemisia,baskerville,bodoni-classic,complutum,didot,didot-classic,neohellenic,olga}
    fonts-gfs-{porson,solomos,theokritos}
    fonts-go fonts-goudybookletter fonts-hack fonts-havana fonts-hermit fonts-humor-sans
    fonts-inconsolata fonts-inter fonts-isabella fonts-jetbrains-mono fonts-johnsmith-induni
    fonts-junction fonts-junicode fonts-jura fonts-karla fonts-kaushanscript fonts-klaudia-berenika
    fonts-kristi fonts-lato fonts-league-mono fonts-league-spartan fonts-leckerli-one fonts-liberation
    fonts-lindenhill fonts-linuxlibertine fonts-lmodern fonts-lobster fonts-lobstertwo fonts-manrope
    fonts-millimetre fonts-monofur fonts-monoid fonts-mononoki fonts-mplus fonts-national-park
    fonts-noto-core fonts-noto-extra fonts-ocr-a fonts-okolaks fonts-oldstandard fonts-open-sans
    fonts-opendyslexic fonts-oxygen fonts-paratype fonts-play fonts-prociono fonts-quattrocento
    fonts-quicksand fonts-radisnoir fonts-roboto-slab fonts-roboto-unhinted fonts-rufscript
    fonts-sil-andika fonts-sil-charis fonts-sil-doulos fonts-sil-galatia fonts-sil-gentium
    fonts-sil-gentiumplus fonts-sixtyfour fonts-sjfonts fonts-smiley-sans fonts-solide-mirage
    fonts-sora fonts-staypuft fonts-stix fonts-summersby fonts-tiresias fonts-tomsontalks fonts-tuffy
    fonts-ubuntu-title fonts-uralic fonts-urw-base35 fonts-vollkorn fonts-yanone-kaffeesatz
    fonts-yrsa-rasa
)

known=" $(apt-cache pkgnames fonts- | tr '\n' ' ') "
wanted=() missing=()
for package in "${PACKAGES[@]}"; do
    if [ -d "$package" ]; then continue; fi
    if [[ $known == *" $package "* ]]; then wanted+=("$package"); else missing+=("$package"); fi
done
if [ ${#wanted[@]} -gt 0 ]; then
    rm -f ./*.deb
    apt-get download "${wanted[@]}"
fi
for archive in ./*.deb; do
    [ -e "$archive" ] || continue
    rm -rf part
    dpkg -x "$archive" part
    mv part "$(basename "${archive%%_*}")"  # complete only now
    rm "$archive"
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "not found in this release: ${missing[*]}" >&2
fi
