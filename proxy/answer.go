package proxy

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/weir-run/weir/contract"
)

const (
	// maxHead bounds the head of one answer and all the interim answers
	// before it, as net/http's server bounds a request's.
	maxHead = 1 << 20
	// maxFields bounds the header lines of one head; each costs more memory
	// than its bytes.
	maxFields = 4096
)

var (
	errStatusLine = errors.New("no HTTP/1.x status line")
	errField      = errors.New("malformed header")
	errHeadSize   = errors.New("header too large")
	errLength     = errors.New("ambiguous length")
	errSwitch     = errors.New("protocol switched unasked")
)

// field is one header line, its name in canonical form.
type field struct{ name, value string }

// answer is a parsed head. It is reused: parse resets it.
type answer struct {
	code   int
	fields []field
	// named holds the values of Connection.
	named    []string
	trailers []string // values of Trailer
	upgrade  string
	// length of the body, -1 when it is not announced.
	length  int64
	chunked bool
	// keep says whether the connection can be used again after the body.
	keep bool
	// stream says that the content is to be shown as it comes, events that
	// it is an event stream.
	stream, events bool
	typed          bool // has a Content-Type
	// trusted: the upstream may say what only a watchdog may. Not of the head.
	trusted bool
}

// headEnd returns the length of the head at the start of b, its empty line
// included, or that of b when the end is not there yet. No end lies before
// from.
func headEnd(b []byte, from int) (n int, whole bool) {
	for i := from; ; {
		lf := bytes.IndexByte(b[i:], '\n')
		if lf < 0 {
			return len(b), false
		}
		i += lf + 1
		switch {
		case i < len(b) && b[i] == '\n':
			return i + 1, true
		case i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n':
			return i + 2, true
		}
	}
}

// parse reads a head whose end was found. It accepts what has one meaning
// only, and a bare LF as the end of a line.
func (a *answer) parse(head string) error {
	*a = answer{fields: a.fields[:0], named: a.named[:0], trailers: a.trailers[:0], length: -1, trusted: a.trusted}
	line, rest := cutLine(head)
	minor, err := a.statusLine(line)
	if err != nil {
		return err
	}
	if a.fields, err = parseFields(a.fields, rest); err != nil {
		return err
	}
	transfer := ""
	for _, f := range a.fields {
		switch f.name {
		case "Content-Length":
			n, ok := parseLength(f.value)
			if !ok || a.length >= 0 && a.length != n {
				return errLength
			}
			a.length = n
		case "Transfer-Encoding":
			if transfer != "" || !strings.EqualFold(f.value, "chunked") {
				return errLength
			}
			transfer = f.value
		case "Connection":
			a.named = append(a.named, f.value)
		case "Trailer":
			a.trailers = append(a.trailers, f.value)
		case "Upgrade":
			a.upgrade = f.value
		case "Content-Type":
			a.typed = true
			a.events = hasType(f.value, "text/event-stream")
			a.stream = a.events || hasType(f.value, "application/x-ndjson")
		}
	}
	a.chunked = transfer != ""
	if a.chunked && (a.length >= 0 || minor == '0') {
		return errLength
	}
	if minor == '0' {
		a.keep = hasToken(a.named, "keep-alive")
	} else {
		a.keep = len(a.named) == 0 || !hasToken(a.named, "close")
	}
	return nil
}

// statusLine reads "HTTP/1.x NNN reason" and returns x.
func (a *answer) statusLine(line string) (minor byte, err error) {
	const prefix = "HTTP/1."
	if len(line) < len(prefix)+5 || line[:len(prefix)] != prefix || line[8] != ' ' || !digit(line[7]) {
		return 0, errStatusLine
	}
	code := line[9:12]
	if !digit(code[0]) || !digit(code[1]) || !digit(code[2]) || code[0] == '0' {
		return 0, errStatusLine
	}
	if len(line) > 12 && line[12] != ' ' || !validValue(line[12:]) {
		return 0, errStatusLine
	}
	a.code = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	return line[7], nil
}

// parseFields appends the header lines of block, up to its empty line.
func parseFields(fields []field, block string) ([]field, error) {
	for {
		var line string
		line, block = cutLine(block)
		if line == "" {
			return fields, nil
		}
		if len(fields) == maxFields {
			return fields, errHeadSize
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		// A line that starts with a space continues the one before it in
		// some parsers and not in others; no name holds a space.
		if !ok || !validName(name) || !validValue(value) {
			return fields, errField
		}
		fields = append(fields, field{http.CanonicalHeaderKey(name), value})
	}
}

// cutLine cuts b behind its first LF and drops the line's end.
func cutLine(b string) (line, rest string) {
	line, rest, _ = strings.Cut(b, "\n")
	return strings.TrimSuffix(line, "\r"), rest
}

func parseLength(s string) (int64, bool) {
	// 18 digits cannot overflow.
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if !digit(s[i]) {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

func hasType(value, media string) bool {
	value, _, _ = strings.Cut(value, ";")
	return strings.EqualFold(strings.TrimRight(value, " \t"), media)
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// nameByte marks the bytes of a token (RFC 9110, 5.6.2).
var nameByte = func() (t [256]bool) {
	for c := range t {
		t[c] = '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

func validName(s string) bool {
	for i := range len(s) {
		if !nameByte[s[i]] {
			return false
		}
	}
	return s != ""
}

func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// bodiless says whether the answer ends with its head.
func (a *answer) bodiless(method string) bool {
	return method == http.MethodHead || a.code == http.StatusNoContent || a.code == http.StatusNotModified
}

// reserved says whether a header of the handler stays here: those of this
// connection, and those that only the watchdog may say.
func (a *answer) reserved(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	case contract.HeaderReject, contract.HeaderInternal:
		return !a.trusted
	}
	return len(a.named) > 0 && hasToken(a.named, name)
}

// Get implements Fields: of what stays here it says nothing.
func (a *answer) Get(name string) string {
	for _, f := range a.fields {
		if f.name == name && !a.reserved(name) {
			return f.value
		}
	}
	return ""
}

// copyTo puts the headers that go out into h. A name that h already has is
// replaced.
func (a *answer) copyTo(h http.Header) {
	for _, f := range a.fields {
		if len(h) == 0 {
			break
		}
		if !a.reserved(f.name) {
			delete(h, f.name)
		}
	}
	values := make([]string, 0, len(a.fields))
	length := false
	for _, f := range a.fields {
		if a.reserved(f.name) || f.name == "Content-Length" && length {
			continue
		}
		length = length || f.name == "Content-Length"
		if have := h[f.name]; have != nil {
			h[f.name] = append(have, f.value)
			continue
		}
		values = append(values, f.value)
		h[f.name] = values[len(values)-1 : len(values) : len(values)]
	}
}

// removeFrom undoes copyTo after an interim answer.
func (a *answer) removeFrom(h http.Header) {
	for _, f := range a.fields {
		if !a.reserved(f.name) {
			delete(h, f.name)
		}
	}
}

// earliest is the sooner of two deadlines, where zero is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
