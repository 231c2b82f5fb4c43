package main

import (
	"errors"
	"log/slog"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

// field is what is common to the values of all settings.
type field interface {
	// wanted says what was expected, "" when the text parsed.
	wanted() string
	// shown is the text that was given, or what may be told of it.
	shown() string
}

// parsed is one value. A text that does not parse is recorded, not returned:
// envconfig stops at the first error, and all faults are to be told at once.
type parsed[T any] struct {
	val  T
	text string
	want string
}

func (p *parsed[T]) read(text string, parse func(string) (T, error)) {
	p.text = text
	val, err := parse(text)
	if err != nil {
		p.want = err.Error()
		return
	}
	p.val = val
}

func (p *parsed[T]) wanted() string { return p.want }
func (p *parsed[T]) shown() string  { return p.text }

// The kinds of values. Set is envconfig's way in and never fails.
type (
	text     struct{ parsed[string] }
	path     struct{ parsed[string] }
	secret   struct{ parsed[string] }
	address  struct{ parsed[string] }
	choice   struct{ parsed[string] }
	syncing  struct{ parsed[string] }
	format   struct{ parsed[string] }
	level    struct{ parsed[slog.Level] }
	number   struct{ parsed[int] }
	bytes    struct{ parsed[int64] }
	duration struct{ parsed[time.Duration] }
)

func (v *text) Set(s string) error     { v.read(s, verbatim); return nil }
func (v *path) Set(s string) error     { v.read(s, verbatim); return nil }
func (v *secret) Set(s string) error   { v.read(s, verbatim); return nil }
func (v *address) Set(s string) error  { v.read(s, parseAddress); return nil }
func (v *choice) Set(s string) error   { v.read(s, oneOf("kubernetes", "local")); return nil }
func (v *syncing) Set(s string) error  { v.read(s, oneOf("interval", "always")); return nil }
func (v *format) Set(s string) error   { v.read(s, oneOf("text", "json")); return nil }
func (v *level) Set(s string) error    { v.read(s, parseLevel); return nil }
func (v *number) Set(s string) error   { v.read(s, parseNumber); return nil }
func (v *bytes) Set(s string) error    { v.read(s, parseBytes); return nil }
func (v *duration) Set(s string) error { v.read(s, parseDuration); return nil }

// shown of a secret is never the secret.
func (*secret) shown() string { return "…" }

func verbatim(s string) (string, error) { return s, nil }

func oneOf(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		for _, w := range words {
			if s == w {
				return s, nil
			}
		}
		return "", errors.New("one of " + strings.Join(words, ", "))
	}
}

func parseAddress(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsAny(host, " /") {
		return "", errors.New("host:port or :port, such as :8080")
	}
	return s, nil
}

func parseLevel(s string) (l slog.Level, err error) {
	if l.UnmarshalText([]byte(s)) != nil {
		return 0, errors.New("one of debug, info, warn, error")
	}
	return l, nil
}

func parseNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, errors.New("a whole number from 0")
	}
	return n, nil
}

func parseBytes(s string) (int64, error) {
	digits, factor := s, int64(1)
	for i, unit := range []string{"Ki", "Mi", "Gi"} {
		if rest, ok := strings.CutSuffix(s, unit); ok {
			digits, factor = rest, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return 0, errors.New("a number of bytes, also with Ki, Mi or Gi")
	}
	return n * factor, nil
}

// parseDuration reads a Go duration, or seconds as OpenFaaS's settings do.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if n, e := strconv.ParseInt(s, 10, 32); e == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return 0, errors.New("a duration such as 30s, or whole seconds")
	}
	return d, nil
}
