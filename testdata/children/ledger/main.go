// A handler, an HTTP server on $PORT, that keeps a ledger: it appends a line of
// JSON to the file $LEDGER when it begins a call, and another one when the call
// has its answer, or is not to have one any more. Each is on the disk before
// the call goes on. What the answer is, the query says:
//
//	ms=N             it comes N ms later
//	status=A,B,C     the status by X-Retry, the last one for all that follow
//	retry-after=TEXT with this header, unless the status is below 300
//	size=N           with a body of N bytes
//	kill=handler     the handler is killed, once per n=…, or kill=pod: its fwatchdog
//	when=answered    that is after the answer was sent, not before
package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// line is one of the ledger.
type line struct {
	At     int64  `json:"at"` // Unix nanoseconds
	Moment string `json:"moment"`
	Call   string `json:"call"`
	Retry  string `json:"retry"`
	Method string `json:"method"`
	URI    string `json:"uri"`
	Host   string `json:"host"`
	Body   string `json:"body"` // its hash
	Status int    `json:"status,omitempty"`
	Pid    int    `json:"pid"`
	Parent int    `json:"parent"`
}

func main() {
	path := os.Getenv("LEDGER")
	ledger, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|os.O_SYNC, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	// Not a mux, which would redirect from paths that are not clean.
	all := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, ledger) })
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), all))
}

func serve(w http.ResponseWriter, r *http.Request, ledger *os.File) {
	hash := sha256.New()
	if _, err := io.Copy(hash, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	query := r.URL.Query()
	entry := line{
		Moment: "began", Call: r.Header.Get("X-Call-Id"), Retry: r.Header.Get("X-Retry"), Method: r.Method, URI: r.RequestURI,
		Host: r.Host, Body: fmt.Sprintf("%x", hash.Sum(nil)), Pid: os.Getpid(), Parent: os.Getppid(),
	}
	entry.write(ledger)
	kill := ""
	if query.Has("kill") && first(ledger.Name()+".killed-by-"+query.Get("n")) {
		kill = query.Get("kill")
	}
	if kill != "" && query.Get("when") != "answered" {
		end(kill)
	}
	ms, _ := strconv.Atoi(query.Get("ms"))
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
	case <-r.Context().Done():
		entry.Moment = "left"
		entry.write(ledger)
		return
	}
	entry.Moment, entry.Status = "answered", status(query, entry.Retry)
	entry.write(ledger)
	if after := query.Get("retry-after"); after != "" && entry.Status >= 300 {
		w.Header().Set("Retry-After", after)
	}
	size, _ := strconv.Atoi(query.Get("size"))
	body := strings.Repeat("x", size)
	if !query.Has("size") {
		body = fmt.Sprintf("%s %s %s\n", entry.Method, entry.URI, entry.Body)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(entry.Status)
	_, _ = io.WriteString(w, body)
	_ = http.NewResponseController(w).Flush()
	if kill != "" {
		end(kill)
	}
}

// write appends the line at once: whole, or not at all.
func (l *line) write(ledger *os.File) {
	l.At = time.Now().UnixNano()
	text, err := json.Marshal(l)
	if err == nil {
		_, err = ledger.Write(append(text, '\n'))
	}
	if err != nil {
		log.Fatal(err)
	}
}

// status is the one for a try.
func status(query url.Values, retry string) int {
	all := strings.Split(query.Get("status"), ",")
	n, _ := strconv.Atoi(retry)
	code, err := strconv.Atoi(all[max(0, min(n, len(all)-1))])
	if err != nil {
		return http.StatusOK
	}
	return code
}

// first says whether nobody has asked for the name before.
func first(name string) bool {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}

// end kills this process, or the one that started it.
func end(which string) {
	pid := os.Getpid()
	if which == "pod" {
		pid = os.Getppid()
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	select {} // nothing comes after it
}
