package gateway

import (
	"bufio"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/proxy"
)

// called1 tells by other means than the router's whether a request may reach
// echo.fn: by its Host, or by its path.
var called1 = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*://[^/?]*)?/function/echo(\.fn)?([/?]|$)`)

// async1 tells that a request is an asynchronous call of a function that there
// is.
var async1 = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*://[^/?]*)?/async-function/(echo|asleep)(\.fn)?([/?]|$)`)

// FuzzHandler takes a request as it comes from the wire. Without credentials
// nothing protected may answer with success, nothing may be scaled, and only a
// request that names the function may reach its pod.
func FuzzHandler(f *testing.F) {
	pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Pod", "echo.fn")
	}))
	f.Cleanup(pod.Close)
	queued := &scripted{}
	w := newAPIWorld(f, func(c *Config) {
		c.HoldTime, c.Async, c.AsyncMaxBody = time.Millisecond, queued, 16
		c.CheckCallback = func(url string) error {
			if url == "bad" {
				return errors.New("bad")
			}
			return nil
		}
	})
	w.fleet.Delete(function.Ref{Name: "echo", Namespace: "far"})
	ref := function.Ref{Name: "echo", Namespace: "fn"}
	w.fleet.Put(&function.Function{
		Ref: ref, Spec: function.Defaults(), Replicas: 1,
		Pods: []function.Pod{{Name: "p", UID: "p", Addr: pod.Listener.Addr().String(), Ready: true}},
	})
	w.fleet.Get(ref).Pods()[0].Learn(fleet.Saying{State: fleet.Started, Nature: fleet.Plain, Room: true})

	for _, line := range []string{
		"GET /function/echo/a%2Fb//c?x HTTP/1.1\r\nHost: x\r\n",
		"GET /function/echo/../../system/functions HTTP/1.1\r\nHost: x\r\n",
		"GET /system/functions HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YWRtaW46\r\n",
		"POST /system/scale-function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"replicas\":0}",
		"GET http://echo.fn/system/info HTTP/1.1\r\nHost: y\r\n",
		"GET / HTTP/1.1\r\nHost: ECHO.fn:80\r\nX-Call-Id: \x7f\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: echo.fn\r\n",
		"CONNECT echo.fn:80 HTTP/1.1\r\nHost: echo.fn\r\n",
		"GET /wake-function/asleep HTTP/1.1\r\nHost: x\r\n",
		"GET /function/asleep/_/ready HTTP/1.1\r\nHost: x\r\n",
		"GET //system/info HTTP/1.0\r\n",
		"GET /%73ystem/info HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 127.0.0.1\r\n",
		"GET /function/echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
		"PUT /async-function/echo/a%2Fb?c HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nConnection: x-private\r\nX-Private: y\r\nContent-Length: 2\r\n\r\nhi",
		"POST /async-function/asleep HTTP/1.1\r\nHost: x\r\nX-Callback-Url: bad\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-End: y\r\n\r\n",
		"POST /async-function/echo.fn HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
		"POST http://x<y/async-function/echo HTTP/1.1\r\nHost: z\r\nX-Call-Id: a/b\r\n",
		"PUT any:///function/echo HTTP/1.0\r\n",
		"DELETE /async-function/" + firstID.String() + " HTTP/1.1\r\nHost: x\r\n",
		"GET /async-call/" + firstID.String() + " HTTP/1.1\r\nHost: x\r\n",
		"GET /system/dead-letters?after=-1 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YWRtaW46b3BlbiBzZXNhbWU=\r\n",
		"POST /system/dead-letters/" + firstID.String() + " HTTP/1.1\r\nHost: x\r\n",
	} {
		if !strings.Contains(line, "\r\n\r\n") {
			line += "\r\n"
		}
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		if user, password, _ := r.BasicAuth(); user == apiUser && password == apiPassword {
			return
		}
		target, path := r.RequestURI, r.URL.Path
		if path == "/status-functions-stream" {
			return // it goes on until its client leaves
		}
		r.RemoteAddr = "203.0.113.9:1234"
		queued.was()
		rec := httptest.NewRecorder()
		func() {
			defer func() {
				if p := recover(); p != nil && p != http.ErrAbortHandler {
					panic(p)
				}
			}()
			w.handler.ServeHTTP(rec, r)
		}()
		host, _, _ := strings.Cut(strings.ToLower(r.Host), ":")
		byHost := host == "echo.fn" || host == "asleep.fn"
		if rec.Header().Get("X-Pod") != "" && host != "echo.fn" && !called1.MatchString(target) {
			t.Errorf("%q reached a pod", text)
		}
		if strings.Contains(strings.ToLower(path), "system/") && !byHost && !strings.Contains(path, "function/") && rec.Code < 300 {
			t.Errorf("%q: %d", text, rec.Code)
		}
		if strings.HasPrefix(path, protectedPrefix) && strings.HasPrefix(target, protectedPrefix) && !byHost && rec.Code != 401 {
			t.Errorf("%q: %d, want 401", text, rec.Code)
		}
		if asked := queued.was(); strings.Contains(asked, "list") || strings.Contains(asked, "letter") || strings.Contains(asked, "resend") || strings.Contains(asked, "drop") {
			t.Errorf("%q had the queue asked: %s", text, asked)
		}
		if kept := queued.all(); (len(kept) == 1) != (rec.Code == 202 && async1.MatchString(target) && !byHost) {
			t.Errorf("%q: %d, and %d messages are kept", text, rec.Code, len(kept))
		} else if len(kept) == 1 {
			m := kept[0]
			if m.Function.Namespace != "fn" || !strings.HasPrefix(m.Path, "/") || m.Callback == "bad" || len(m.Body) > 16 || !proxy.ValidHost(m.Host) {
				t.Errorf("%q is kept as %+v", text, m)
			}
			for name := range m.Header {
				if betweenPeers(name) {
					t.Errorf("%q is kept with %s", text, name)
				}
			}
		}
		if wakes, asks := w.provider.asked(); asks != nil {
			t.Errorf("%q scaled %v, woke %v", text, asks, wakes)
		}
	})
}
