package watchdog

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-run/weir/contract"
)

// lines writes the watchdog's own log lines, as text the way the standard
// library's log does, or as JSON.
type lines struct {
	out  io.Writer
	text *log.Logger
	json *slog.Logger // nil: text
	// second holds the text of the present second.
	second atomic.Pointer[stamp]
}

type stamp struct {
	unix int64
	text string
}

func newLines(out io.Writer, format string) *lines {
	l := &lines{out: out, text: log.New(out, "", log.LstdFlags)}
	if format == "json" {
		l.json = slog.New(slog.NewJSONHandler(out, nil))
	}
	return l
}

// printf writes one line.
func (l *lines) printf(format string, args ...any) {
	if l.json != nil {
		l.json.Info(strings.ReplaceAll(fmt.Sprintf(format, args...), "\t", " "))
		return
	}
	l.text.Printf(format, args...)
}

// std is for packages that want a *log.Logger, such as net/http.
func (l *lines) std() *log.Logger {
	if l.json != nil {
		return slog.NewLogLogger(l.json.Handler(), slog.LevelWarn)
	}
	return l.text
}

// stamped takes lines that begin with the standard library's date and time.
func (l *lines) stamped() io.Writer {
	if l.json == nil {
		return l.out
	}
	return stampedJSON{l}
}

type stampedJSON struct{ *lines }

func (s stampedJSON) Write(p []byte) (int, error) {
	const stamp = len("2006/01/02 15:04:05 ")
	s.json.Info(strings.TrimSpace(string(p[min(stamp, len(p)):])))
	return len(p), nil
}

// maxLoggedURI bounds what one request can put into the log.
const maxLoggedURI = 2048

// access writes the line of one request. statusText adds the status' name, as
// http mode always had it.
func (l *lines) access(r *http.Request, w *response, took time.Duration, statusText, callID bool) {
	status := w.status
	if w.outcome != 0 {
		status = w.outcome
	}
	uri := r.RequestURI
	if len(uri) > maxLoggedURI {
		uri = uri[:maxLoggedURI] + "…"
	}
	if l.json != nil {
		attrs := []any{"method", r.Method, "uri", uri, "status", status,
			"bytes", w.bytes, "seconds", took.Seconds()}
		if callID {
			attrs = append(attrs, "call_id", loggedCallID(r))
		}
		if w.reason != "" {
			attrs = append(attrs, "reason", w.reason)
		}
		l.json.Info("request", attrs...)
		return
	}
	room := lineRoom.Get().(*[]byte)
	b := l.appendTime((*room)[:0], time.Now())
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, uri...)
	b = append(b, " - "...)
	b = strconv.AppendInt(b, int64(status), 10)
	if statusText {
		b = append(b, ' ')
		b = append(b, http.StatusText(status)...)
	}
	b = append(b, " - ContentLength: "...)
	b = appendSize(b, w.bytes)
	b = append(b, " ("...)
	b = strconv.AppendFloat(b, took.Seconds(), 'f', 4, 64)
	b = append(b, "s)"...)
	if callID {
		b = append(b, " ["...)
		b = append(b, loggedCallID(r)...)
		b = append(b, ']')
	}
	if w.reason != "" {
		b = append(b, " - "...)
		b = append(b, w.reason...)
	}
	b = append(b, '\n')
	_, _ = l.out.Write(b)
	*room = b
	lineRoom.Put(room)
}

var lineRoom = sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }}

func (l *lines) appendTime(b []byte, now time.Time) []byte {
	s := l.second.Load()
	if unix := now.Unix(); s == nil || s.unix != unix {
		s = &stamp{unix: unix, text: now.Format("2006/01/02 15:04:05 ")}
		l.second.Store(s)
	}
	return append(b, s.text...)
}

// appendSize writes bytes with four significant digits and a decimal unit:
// 12B, 1.234kB.
func appendSize(b []byte, n int64) []byte {
	const units = "kMGTPE"
	if n < 1000 {
		return append(strconv.AppendInt(b, n, 10), 'B')
	}
	size, unit := float64(n)/1000, 0
	for size >= 1000 && unit < len(units)-1 {
		size /= 1000
		unit++
	}
	b = strconv.AppendFloat(b, size, 'g', 4, 64)
	return append(b, units[unit], 'B')
}

// maxCallID is the longest call ID that is believed.
const maxCallID = 64

func loggedCallID(r *http.Request) string {
	id := r.Header.Get(contract.HeaderCallID)
	if id == "" {
		return "none"
	}
	if len(id) > maxCallID {
		return "invalid"
	}
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return "invalid"
		}
	}
	return id
}
