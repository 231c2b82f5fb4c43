package fork

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/invoke"
)

var seconds = regexp.MustCompile(`^\d+\.\d{6}$`)

func TestSerializing(t *testing.T) {
	r := serve(t, []string{"cat"}, mode(Serializing))
	// One that fits into a pipe, one that does not, one that grows the buffer.
	for _, size := range []int{1, 4096, 65536, 65537, 3 << 20} {
		body := bytes.Repeat([]byte("abc"), size/3+1)[:size]
		resp := r.want(bytes.NewReader(body), 200, string(body))
		if resp.ContentLength != int64(size) || resp.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("Content-Length %d, Content-Type %q", resp.ContentLength, resp.Header.Get("Content-Type"))
		}
		if !seconds.MatchString(resp.Header.Get("X-Duration-Seconds")) {
			t.Errorf("X-Duration-Seconds %q", resp.Header.Get("X-Duration-Seconds"))
		}
	}
	r.want(nil, 200, "")
	r.want(struct{ io.Reader }{strings.NewReader("chunked")}, 200, "chunked")
}

func TestSerializingFaults(t *testing.T) {
	for script, answer := range map[string]string{
		"cat; exit 3": "exit status 3\n",
		"kill -9 $$":  "signal: killed\n",
	} {
		r := shell(t, script, mode(Serializing))
		r.want(strings.NewReader("body"), 500, answer)
		var exit *invoke.ExitError
		if err := r.result(); !errors.As(err, &exit) || exit.Output != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

func TestBufferedBounds(t *testing.T) {
	const most = 100000
	for _, m := range []Mode{Serializing, Classic} {
		r := shell(t, "cat; cat $Http_X_More /dev/null", mode(m), with(func(h *Handler) { h.MaxBuffered = most }))
		r.want(bytes.NewReader(make([]byte, most)), 200, string(make([]byte, most)))
		if err := r.result(); err != nil {
			t.Fatal(err)
		}
		for name, body := range map[string]io.Reader{
			"length": bytes.NewReader(make([]byte, most+1)),
			"chunks": struct{ io.Reader }{bytes.NewReader(make([]byte, most+1))},
		} {
			r.post(body)
			var request *invoke.RequestError
			if err := r.result(); !errors.As(err, &request) || request.Status != 413 {
				t.Errorf("mode %d, %s: Serve: %v", m, name, err)
			}
		}
		req, _ := http.NewRequest("GET", r.URL, nil)
		req.Header.Set("X-More", "/dev/zero")
		resp, err := r.client.Do(req)
		if err != nil || resp.StatusCode != 502 {
			t.Fatalf("%v, %v", resp, err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err := r.result(); !errors.Is(err, invoke.ErrAnswerTooLarge) {
			t.Errorf("mode %d: Serve: %v", m, err)
		}
	}
	// A child that ended well before its answer was found too long.
	r := shell(t, "head -c 60000 /dev/zero", mode(Serializing), with(func(h *Handler) { h.MaxBuffered = 59999 }))
	r.want(nil, 502, invoke.ErrAnswerTooLarge.Error()+"\n")
}

// The time of an invocation bounds the wait for its body as well.
func TestTimeEndsTheReadingOfABody(t *testing.T) {
	for _, m := range []Mode{Serializing, Classic} {
		r := serve(t, []string{"cat"}, mode(m), limit(100*time.Millisecond))
		_, in := r.dial("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("%v, %v", resp, err)
		}
		if err := r.result(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Serve: %v", err)
		}
	}
}

// classic is a rig whose log and debug output can be read.
func classic(t *testing.T, script string, options ...option) (r *rig, log, debug *lockedBuffer) {
	log, debug = new(lockedBuffer), new(lockedBuffer)
	options = append([]option{mode(Classic), with(func(h *Handler) {
		h.ContentType, h.CombineOutput, h.Log, h.Debug = "", true, log, debug
	})}, options...)
	return shell(t, script, options...), log, debug
}

// stamped cuts the date off log lines and the digits out of durations.
func stamped(b *lockedBuffer) string {
	text := regexp.MustCompile(`(?m)^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `).ReplaceAllString(b.String(), "@ ")
	return regexp.MustCompile(`\d+\.\d{6}s`).ReplaceAllString(text, "Ts")
}

func TestClassic(t *testing.T) {
	r, log, _ := classic(t, "cat; echo err >&2")
	for method, status := range map[string]int{
		"GET": 200, "POST": 200, "PUT": 200, "PATCH": 200, "DELETE": 200,
		"OPTIONS": 405, "HEAD": 405, "TRACE": 405, "PROPFIND": 405,
	} {
		req, _ := http.NewRequest(method, r.URL, strings.NewReader("in:"))
		req.Header.Set("Content-Type", "text/x-echoed")
		resp, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		want, ct := "in:err\n", "text/x-echoed"
		if status != 200 {
			want, ct = "", ""
		}
		if resp.StatusCode != status || string(out) != want || resp.Header.Get("Content-Type") != ct {
			t.Errorf("%s: %d %q %v", method, resp.StatusCode, out, resp.Header)
		}
		if has := resp.Header.Get("X-Duration-Seconds") != ""; has != (status == 200) {
			t.Errorf("%s: X-Duration-Seconds %v", method, has)
		}
	}
	want := strings.Repeat("@ Forking fprocess.\n@ Wrote 7 Bytes - Duration: Ts\n", 5)
	if got := stamped(log); got != want {
		t.Errorf("log:\n%swant:\n%s", got, want)
	}
}

func TestClassicFaults(t *testing.T) {
	t.Run("exit", func(t *testing.T) {
		r, log, _ := classic(t, "cat; echo err >&2; exit 3", with(func(h *Handler) { h.WriteDebug = true }))
		r.want(strings.NewReader("in:"), 500, "exit status 3\nin:err\n")
		want := "@ Forking fprocess.\n@ Query  a=b\n@ Path  /path\n@ Success=false, Error=exit status 3\n@ Out=in:err\n"
		if got := stamped(log); got != want {
			t.Errorf("log:\n%swant:\n%s", got, want)
		}
	})
	t.Run("time", func(t *testing.T) {
		r, log, _ := classic(t, "echo some; exec sleep 600", limit(200*time.Millisecond))
		r.want(nil, 504, "time is over\n") // 408 is the watchdog's
		want := "@ Forking fprocess.\n@ Killing process: /bin/sh -c echo some; exec sleep 600\n"
		if got := stamped(log); got != want {
			t.Errorf("log:\n%swant:\n%s", got, want)
		}
	})
}

func TestClassicOptions(t *testing.T) {
	t.Run("combine_output=false", func(t *testing.T) {
		r, _, _ := classic(t, "echo out; echo err >&2", with(func(h *Handler) { h.CombineOutput, h.PrefixLogs = false, true }))
		r.want(nil, 200, "out\n")
		if got := stamped(r.stderr); got != "@ stderr: err\n" {
			t.Errorf("log: %q", got)
		}
	})
	t.Run("content_type", func(t *testing.T) {
		r, _, _ := classic(t, "echo {}", with(func(h *Handler) { h.ContentType = "application/json" }))
		if ct := r.want(strings.NewReader("x"), 200, "{}\n").Header.Get("Content-Type"); ct != "application/json" {
			t.Errorf("Content-Type %q", ct)
		}
	})
	t.Run("write_debug", func(t *testing.T) {
		r, log, debug := classic(t, "echo out", with(func(h *Handler) { h.WriteDebug = true }))
		r.want(nil, 200, "out\n")
		if got := debug.String(); got != "out\n" {
			t.Errorf("debug: %q", got)
		}
		want := "@ Forking fprocess.\n@ Query  a=b\n@ Path  /path\n@ Duration: Ts\n"
		if got := stamped(log); got != want {
			t.Errorf("log:\n%swant:\n%s", got, want)
		}
	})
	t.Run("debug_headers", func(t *testing.T) {
		r, _, debug := classic(t, "echo out", with(func(h *Handler) { h.DebugHeaders = true }))
		r.want(strings.NewReader("x"), 200, "out\n")
		got := regexp.MustCompile(`\d\.\d{6}`).ReplaceAllString(debug.String(), "T")
		want := "[in] Content-Length=[1]\n[in] Content-Type=[text/plain]\n[in] User-Agent=[Go-http-client/1.1]\n" +
			"[out] Content-Length=[4]\n[out] Content-Type=[text/plain]\n[out] X-Duration-Seconds=[T]\n"
		if got != want {
			t.Errorf("debug:\n%swant:\n%s", got, want)
		}
	})
	t.Run("marshal_request", func(t *testing.T) {
		r, _, _ := classic(t, "cat", with(func(h *Handler) { h.MarshalRequest = true }))
		for _, body := range []string{"", "raw \x00\xff"} {
			_, out, err := r.post(strings.NewReader(body))
			var got struct {
				Header map[string][]string
				Body   struct{ Raw []byte }
			}
			if err != nil || json.Unmarshal([]byte(out), &got) != nil || string(got.Body.Raw) != body || got.Header["Content-Type"][0] != "text/plain" {
				t.Errorf("%q: %q, %v", body, out, err)
			}
			if body == "" && !strings.HasSuffix(out, `,"body":{"raw":""}}`) {
				t.Errorf("empty body: %q", out)
			}
		}
	})
}

// of-watchdog lost the last lines, and hung at a long one.
func TestStderrIsLogged(t *testing.T) {
	for _, m := range []Mode{Streaming, Serializing} {
		r := shell(t, "echo one >&2; echo out; printf 'two\nlast' >&2", mode(m), with(func(h *Handler) { h.PrefixLogs = true }))
		r.want(nil, 200, "out\n")
		if got, want := stamped(r.stderr), "@ stderr: one\n@ stderr: two\n@ stderr: last\n"; got != want {
			t.Errorf("mode %d: logged %q", m, got)
		}
		r = shell(t, "head -c 100000 /dev/zero | tr '\\0' x >&2; echo >&2; echo out", mode(m), with(func(h *Handler) { h.LogBufferSize = 1000 }))
		r.want(nil, 200, "out\n")
		if got := r.stderr.lines(); len(got) < 100 || strings.Count(r.stderr.String(), "x") != 100000 || len(got[0]) != 1001 {
			t.Errorf("mode %d: %d lines, %d bytes", m, len(got), len(r.stderr.String()))
		}
		r = shell(t, "echo gone >&2; echo out", mode(m), with(func(h *Handler) { h.Stderr = nil }))
		r.want(nil, 200, "out\n")
	}
	t.Run("held by one that left", func(t *testing.T) {
		r := shell(t, "echo before >&2; setsid sleep 600 >/dev/null & echo $!")
		_, pid, err := r.post(nil)
		if err != nil || r.stderr.String() != "before\n" {
			t.Errorf("logged %q, %v", r.stderr.String(), err)
		}
		killPid(t, pid)
	})
}

// Answers do not share the buffers they were made in.
func TestAnswersAreNotMixed(t *testing.T) {
	for _, m := range []Mode{Streaming, Serializing, Classic} {
		r := shell(t, "cat; exit $Http_X_Code", mode(m))
		done := make(chan string)
		for i := range 8 {
			go func() {
				for j := range 10 {
					text := strings.Repeat(strconv.Itoa(i), 1000)
					req, _ := http.NewRequest("POST", r.URL, strings.NewReader(text))
					req.Header.Set("X-Code", strconv.Itoa(j%2))
					resp, err := r.client.Do(req)
					if err != nil {
						done <- err.Error()
						return
					}
					out, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if want := text; resp.StatusCode == 200 && string(out) != want {
						done <- fmt.Sprintf("mode %d: %.20q, %v", m, out, err)
						return
					}
					if want := "exit status 1\n" + text; m == Classic && resp.StatusCode == 500 && string(out) != want {
						done <- fmt.Sprintf("mode %d: %.40q, %v", m, out, err)
						return
					}
				}
				done <- ""
			}()
		}
		for range 8 {
			if fault := <-done; fault != "" {
				t.Error(fault)
			}
		}
	}
}
