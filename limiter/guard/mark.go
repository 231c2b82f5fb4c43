package guard

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Mark says how far something may be used, or how much of it must stay free:
// a share of a limit, an absolute number, or nothing. The zero Mark is off.
type Mark struct {
	percent  float64 // over 0, at most 100; 0: absolute, or off
	absolute uint64  // bytes or things; 0: percent, or off
}

// ParseUse reads a mark for what is used: "90%" of the limit, "200Mi", "900",
// or "off". A share is over 0 and at most 100 percent and may have decimals; a
// number is over 0 and may end in Ki, Mi, Gi, Ti (of 1024) or k, M, G, T (of
// 1000). The error is a noun phrase, which says what was expected.
func ParseUse(text string) (Mark, error) {
	m, ok := parseMark(text)
	if !ok {
		return Mark{}, errors.New("a share such as 90%, a size such as 200Mi, or off")
	}
	return m, nil
}

// ParseFree reads a mark for what must stay free: "1%" of the whole, "256Mi",
// or "off". Otherwise it is as ParseUse.
func ParseFree(text string) (Mark, error) {
	m, ok := parseMark(text)
	if !ok {
		return Mark{}, errors.New("a share such as 1%, a size such as 256Mi, or off")
	}
	return m, nil
}

func parseMark(text string) (m Mark, ok bool) {
	if text == "off" {
		return Mark{}, true
	}
	if digits, share := strings.CutSuffix(text, "%"); share {
		m.percent, ok = parsePercent(digits)
		return m, ok
	}
	m.absolute, ok = parseAbsolute(text)
	return m, ok
}

// parsePercent takes digits and one point. strconv.ParseFloat alone would take
// NaN, Inf, signs, exponents, hexadecimal and underscores too.
func parsePercent(text string) (float64, bool) {
	if strings.ContainsFunc(text, notDecimal) {
		return 0, false
	}
	v, err := strconv.ParseFloat(text, 64)
	return v, err == nil && v > 0 && v <= 100
}

func notDecimal(r rune) bool { return r != '.' && (r < '0' || r > '9') }

// units from the largest down, so that String finds the shortest text.
var units = []struct {
	suffix string
	factor uint64
}{
	{"Ti", 1 << 40}, {"T", 1e12}, {"Gi", 1 << 30}, {"G", 1e9}, {"Mi", 1 << 20}, {"M", 1e6},
	{"Ki", 1 << 10}, {"k", 1e3}, {"K", 1e3},
}

// parseAbsolute takes what the watchdog's other sizes take, except 0.
func parseAbsolute(text string) (uint64, bool) {
	digits, factor := text, uint64(1)
	for _, u := range units {
		if cut, ok := strings.CutSuffix(text, u.suffix); ok {
			digits, factor = cut, u.factor
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	return n * factor, err == nil && n > 0 && n <= math.MaxInt64/factor
}

// String is a text that ParseUse and ParseFree read as the same Mark.
func (m Mark) String() string {
	if m.percent > 0 {
		return strconv.FormatFloat(m.percent, 'f', -1, 64) + "%"
	}
	if m.absolute == 0 {
		return "off"
	}
	for _, u := range units {
		if m.absolute%u.factor == 0 {
			return strconv.FormatUint(m.absolute/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatUint(m.absolute, 10)
}

// Off reports whether there is no mark.
func (m Mark) Off() bool { return m == Mark{} }

// Absolute reports whether the mark is a number and not a share.
func (m Mark) Absolute() bool { return m.absolute > 0 }

// use is the number that may be used under limit, at least 1. It is not ok
// when the mark is off, or a share and no limit is known.
func (m Mark) use(limit uint64) (mark uint64, ok bool) {
	if m.Absolute() {
		return m.absolute, true
	}
	if m.Off() || limit == 0 {
		return 0, false
	}
	return max(1, m.of(limit)), true
}

// free is the number that must stay free of total: 0 when the mark is off.
func (m Mark) free(total uint64) uint64 {
	if m.Absolute() {
		return m.absolute
	}
	return m.of(total)
}

// of rounds, so that 29 % of 100 is 29 although no float64 is 0.29.
func (m Mark) of(total uint64) uint64 {
	part := math.Round(m.percent / 100 * float64(total))
	if part >= float64(total) { // also where float64 has rounded total up
		return total
	}
	return uint64(part)
}
