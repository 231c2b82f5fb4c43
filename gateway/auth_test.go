package gateway

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// open are the routes that anybody may use. A new one is written here on
// purpose or not at all.
var open = []string{
	"/async-call/", "/async-function/", "/function/", "/healthz", "/status-function/", "/status-functions", "/status-functions-stream", "/wake-function/",
}

var someMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"}

// TestRoutesAreProtectedUnlessOpen walks the table that is the router.
func TestRoutesAreProtectedUnlessOpen(t *testing.T) {
	w := newAPIWorld(t, nil)
	var opened []string
	for i := range routes {
		r := &routes[i]
		if r.open {
			opened = append(opened, r.path)
			continue
		}
		target := r.path
		if strings.HasSuffix(target, "/") {
			target += "echo"
		}
		for _, method := range someMethods {
			if takenOpenly(r.path, method) {
				continue
			}
			for name, with := range map[string]func(*http.Request){
				"none":           nil,
				"empty":          func(r *http.Request) { r.SetBasicAuth("", "") },
				"wrong password": func(r *http.Request) { r.SetBasicAuth(apiUser, apiPassword+"x") },
				"wrong user":     func(r *http.Request) { r.SetBasicAuth("root", apiPassword) },
				"no password":    func(r *http.Request) { r.SetBasicAuth(apiUser, "") },
				"a token":        func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+apiPassword) },
				"from loopback":  func(r *http.Request) { r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost" },
			} {
				rec := w.ask(method, target, `{"replicas":1}`, with)
				if rec.Code != 401 || rec.Header().Get("WWW-Authenticate") == "" || !strings.Contains(rec.Body.String(), "WEIR_BASIC_AUTH_PASSWORD") {
					t.Errorf("%s %s, credentials %s: %d", method, target, name, rec.Code)
				}
			}
		}
		method := "GET"
		if r.methods != nil {
			method = r.methods[0]
		}
		if rec := w.ask(method, target, `{"replicas":1}`, asAdmin); rec.Code == 401 || rec.Code == 404 || rec.Code == 405 {
			t.Errorf("%s %s with credentials: %d", method, target, rec.Code)
		}
		for _, method := range r.methods {
			if takenOpenly(r.path, method) {
				t.Errorf("%s %s is open and not", method, r.path)
			}
		}
	}
	slices.Sort(opened)
	if !slices.Equal(opened, open) {
		t.Errorf("open are %q, want %q", opened, open)
	}
	if _, asks := w.provider.asked(); len(asks) != 1 {
		t.Errorf("one request with credentials scales, but the provider was asked for %v", asks)
	}
}

// takenOpenly says whether an open route of the path takes the method.
func takenOpenly(path, method string) bool {
	return slices.ContainsFunc(routes, func(r route) bool { return r.path == path && r.open && r.takes(method) })
}

// TestWhatIsNotListedIsNotThere tries paths beside the table.
func TestWhatIsNotListedIsNotThere(t *testing.T) {
	w := newAPIWorld(t, nil)
	for _, target := range []string{
		"/", "//", "/system", "/system/", "/system/x", "/system/functions/", "/system/functions/echo", "/system/info/x",
		"//system/functions", "/./system/functions", "/x/../system/functions", "/%73ystem/functions", "/system%2Ffunctions", "/SYSTEM/functions",
		"/System/info", "/system/info%20", "/system/function/echo/x", "/system/scale-function/echo/x", "/system/alert", "/system/telemetry",
		"/function", "/functions", "/async-function", "/async-call", "/async-calls", "/async-call/1/x", "/system/dead-letters/1/x", "/wake-function", "/wake-function/echo/", "/wake-functions", "/status-function/echo/x",
		"/status-functionsx", "/status-functions/", "/healthz/", "/healthzz", "/metrics", "/debug/pprof/", "/_/health", "/_/ready", "/favicon.ico",
		"/healthz/../system/functions", "/healthz;/system/functions",
	} {
		for _, method := range someMethods {
			if rec := w.ask(method, target, "", nil); rec.Code != 404 && rec.Code != 401 {
				t.Errorf("%s %s without credentials: %d", method, target, rec.Code)
			}
			rec := w.ask(method, target, "", asAdmin)
			if rec.Code != 404 {
				t.Errorf("%s %s with credentials: %d", method, target, rec.Code)
			}
		}
	}
	// What OpenFaaS may have there one day is nobody's to probe.
	if rec := w.ask("GET", "/system/alert", "", nil); rec.Code != 401 {
		t.Errorf("/system/alert without credentials: %d", rec.Code)
	}
	for target, want := range map[string]int{"*": 400, "echo.fn:80": 400, "system/functions": 400, "http:/system/functions": 400} {
		if rec := w.ask("OPTIONS", target, "", nil); rec.Code != want {
			t.Errorf("%s: %d, want %d", target, rec.Code, want)
		}
	}
	for _, target := range []string{"http://echo.fn/", "/function/echo/x", "/async-function/echo/x"} {
		rec := w.ask("CONNECT", target, "", nil)
		if rec.Code != 400 || !strings.Contains(rec.Body.String(), "CONNECT \""+target+"\": weir is no proxy") ||
			!strings.Contains(rec.Body.String(), "/function/NAME") {
			t.Errorf("CONNECT %s: %d %q", target, rec.Code, rec.Body.String())
		}
	}
	if rec := w.ask("CONNECT", "/function/echo", "", nil); rec.Code != 400 || !strings.Contains(rec.Body.String(), "weir is no proxy") {
		t.Errorf("CONNECT of a path: %d %q", rec.Code, rec.Body.String())
	}
	if rec := w.ask("OPTIONS", "*", "", nil); rec.Code != 400 || !strings.Contains(rec.Body.String(), "OPTIONS \"*\": ") {
		t.Errorf("OPTIONS *: %d %q", rec.Code, rec.Body.String())
	}
	if wakes, asks := w.provider.asked(); wakes != nil || asks != nil {
		t.Errorf("asked for %v, %v", wakes, asks)
	}
}

// TestWithoutASecret: programs on this machine only.
func TestWithoutASecret(t *testing.T) {
	w := newAPIWorld(t, func(c *Config) { c.User, c.Password = "admin", "" })
	for _, row := range []struct {
		name       string
		peer, host string
		header     [2]string
		method     string
		want       int
	}{
		{"loopback", "127.0.0.1:1", "127.0.0.1:8080", [2]string{}, "GET", 200},
		{"loopback 127.9", "127.9.9.9:1", "localhost:8080", [2]string{}, "GET", 200},
		{"loopback v6", "[::1]:1", "[::1]:8080", [2]string{}, "GET", 200},
		{"loopback v4 in v6", "[::ffff:127.0.0.1]:1", "localhost", [2]string{}, "GET", 200},
		{"port-forward", "127.0.0.1:1", "weir.localhost:8080", [2]string{}, "GET", 200},
		{"the machine's own address", "127.0.0.1:1", "192.0.2.7:8080", [2]string{}, "GET", 200},
		{"elsewhere", "203.0.113.9:1", "localhost", [2]string{}, "GET", 401},
		{"a private network", "10.0.0.1:1", "localhost", [2]string{}, "GET", 401},
		{"no address", "@", "localhost", [2]string{}, "GET", 401},
		{"elsewhere that says loopback", "203.0.113.9:1", "localhost", [2]string{"X-Forwarded-For", "127.0.0.1"}, "GET", 401},
		{"through a proxy here", "127.0.0.1:1", "localhost", [2]string{"X-Forwarded-For", "203.0.113.9"}, "GET", 401},
		{"through a proxy here, empty", "127.0.0.1:1", "localhost", [2]string{"X-Forwarded-For", ""}, "GET", 401},
		{"through a standard proxy", "127.0.0.1:1", "localhost", [2]string{"Forwarded", "for=203.0.113.9"}, "GET", 401},
		{"through nginx", "127.0.0.1:1", "localhost", [2]string{"X-Real-IP", "127.0.0.1"}, "GET", 401},
		{"a name that points here", "127.0.0.1:1", "evil.example.com:8080", [2]string{}, "GET", 401},
		{"a page across origins", "127.0.0.1:1", "localhost:8080", [2]string{"Origin", "https://evil.example.com"}, "POST", 401},
		{"a page across sites", "127.0.0.1:1", "localhost:8080", [2]string{"Sec-Fetch-Site", "cross-site"}, "POST", 401},
		{"a page of here", "127.0.0.1:1", "localhost:8080", [2]string{"Origin", "http://localhost:8080"}, "POST", 202},
		{"a program", "127.0.0.1:1", "localhost:8080", [2]string{}, "POST", 202},
	} {
		target, body := "/system/functions", ""
		if row.method == "POST" {
			target, body = "/system/scale-function/echo", `{"replicas":2}`
		}
		rec := w.ask(row.method, target, body, func(r *http.Request) {
			r.RemoteAddr, r.Host = row.peer, row.host
			if row.header[0] != "" {
				r.Header.Set(row.header[0], row.header[1])
			}
			// Credentials of which there are none open nothing.
			r.SetBasicAuth("admin", "")
		})
		if rec.Code != row.want {
			t.Errorf("%s: %d %s, want %d", row.name, rec.Code, rec.Body, row.want)
		}
		if rec.Code == 401 && !strings.Contains(rec.Body.String(), "set WEIR_BASIC_AUTH_USER") {
			t.Errorf("%s: no remedy in %s", row.name, rec.Body)
		}
	}
	// What is open stays open.
	if rec := w.ask("GET", "/function/echo", "", nil); rec.Code != 200 {
		t.Errorf("a function: %d", rec.Code)
	}
}
