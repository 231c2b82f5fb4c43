package watchdog

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/weir-run/weir/limiter/guard"
	"github.com/weir-run/weir/watchdog/process"
)

// parsed is the value of one setting while the environment is read. It is what
// envconfig fills: a text that does not parse is recorded, not returned,
// because envconfig stops at the first error and all faults are to be told at
// once.
type parsed[T any] struct {
	val   T
	given bool   // a text was there and parsed
	want  string // what was expected of a text that did not parse
}

// read keeps val as it is when text is empty: empty is unset.
func (p *parsed[T]) read(text string, parse func(string) (T, error)) {
	if text == "" {
		return
	}
	val, err := parse(text)
	if err != nil {
		p.want = err.Error()
		return
	}
	p.val, p.given = val, true
}

func (p *parsed[T]) wanted() string { return p.want }

// The kinds of values. Set is envconfig's way in and never fails.
type (
	text     struct{ parsed[string] }
	command  struct{ parsed[[]string] }
	toggle   struct{ parsed[bool] }
	number   struct{ parsed[int] }
	size     struct{ parsed[int64] }
	duration struct{ parsed[time.Duration] }
	inflight struct{ parsed[concurrency] }
	use      struct{ parsed[guard.Mark] }    // how much may be used
	free     struct{ parsed[guard.Mark] }    // how much must stay free
	patience struct{ parsed[time.Duration] } // 0: for ever
	level    struct{ parsed[bool] }          // true: debug
)

// concurrency is what max_inflight says.
type concurrency struct {
	limit int
	auto  bool
}

func (v *text) Set(s string) error     { v.read(s, parseText); return nil }
func (v *command) Set(s string) error  { v.read(s, parseCommand); return nil }
func (v *toggle) Set(s string) error   { v.read(s, parseToggle); return nil }
func (v *number) Set(s string) error   { v.read(s, parseNumber); return nil }
func (v *size) Set(s string) error     { v.read(s, parseSize); return nil }
func (v *duration) Set(s string) error { v.read(s, parseDuration); return nil }
func (v *inflight) Set(s string) error { v.read(s, parseInflight); return nil }
func (v *use) Set(s string) error      { v.read(s, guard.ParseUse); return nil }
func (v *free) Set(s string) error     { v.read(s, guard.ParseFree); return nil }
func (v *patience) Set(s string) error { v.read(s, parsePatience); return nil }
func (v *level) Set(s string) error    { v.read(s, parseLevel); return nil }

func (*text) kind() string     { return "text" }
func (*command) kind() string  { return "command" }
func (*toggle) kind() string   { return "bool" }
func (*number) kind() string   { return "number" }
func (*size) kind() string     { return "bytes" }
func (*duration) kind() string { return "duration" }
func (*inflight) kind() string { return "number or auto" }
func (*use) kind() string      { return "mark" }
func (*free) kind() string     { return "mark" }
func (*patience) kind() string { return "duration" }
func (*level) kind() string    { return "text" }

func parseText(s string) (string, error) { return s, nil }

func parseCommand(s string) ([]string, error) {
	words, err := process.Split(s)
	if err != nil {
		return nil, errors.New("a command as a shell would split it: " + err.Error())
	}
	if len(words) == 0 || words[0] == "" {
		return nil, errors.New("a command that names a program")
	}
	return words, nil
}

func parseToggle(s string) (bool, error) {
	v, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("true or false (also 1, 0, t, f)")
	}
	return v, nil
}

// parseNumber takes 32 bits: no count or length here has a use for more, and
// sums of two cannot overflow.
func parseNumber(s string) (int, error) {
	v, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, errors.New("a whole number of at most 2147483647")
	}
	return int(v), nil
}

// autoHighest is the bound of max_inflight=auto: far above what one container
// runs, and low enough that its connections fit into most descriptor limits.
const autoHighest = 1000

// parseInflight takes a number, auto, or auto and its bound.
func parseInflight(s string) (concurrency, error) {
	if s == "auto" {
		return concurrency{autoHighest, true}, nil
	}
	digits, auto := strings.CutPrefix(s, "auto:")
	n, err := parseNumber(digits)
	if err != nil || auto && n < 1 {
		return concurrency{}, errors.New("a whole number of at most 2147483647, auto, or auto:64 with a number over 0")
	}
	return concurrency{n, auto}, nil
}

// parsePatience takes what parseDuration does, and off for 0.
func parsePatience(s string) (time.Duration, error) {
	if s == "off" {
		return 0, nil
	}
	d, err := parseDuration(s)
	if err != nil {
		err = errors.New(err.Error() + ", or off")
	}
	return d, err
}

func parseLevel(s string) (debug bool, err error) {
	if s != "info" && s != "debug" {
		return false, errors.New("info or debug")
	}
	return s == "debug", nil
}

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40},
	{"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12},
}

// parseSize takes bytes, or a whole number with one of Kubernetes' suffixes.
func parseSize(s string) (int64, error) {
	digits, unit := s, int64(1)
	for _, u := range sizeUnits {
		if cut, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, unit = cut, u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || int64(n) > maxSize/unit {
		return 0, errors.New("a number of bytes such as 1048576, 512Mi or 1G")
	}
	return int64(n) * unit, nil
}

// maxSize leaves room for the byte more that tells a body that is too long.
const maxSize = 1<<62 - 1

// maxDuration is about 146 years: half of what a time.Duration holds, so that
// the sum of two settings does not overflow.
const maxDuration = time.Duration(1 << 62)

// parseDuration takes whole seconds or what time.ParseDuration takes. Negative
// ones are refused here as well as by Validate, because "-1" is neither.
func parseDuration(s string) (time.Duration, error) {
	bad := errors.New("seconds such as 30, or a duration such as 1m30s, not negative")
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n < 0 || n > int64(maxDuration/time.Second) {
			return 0, bad
		}
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxDuration {
		return 0, bad
	}
	return d, nil
}
