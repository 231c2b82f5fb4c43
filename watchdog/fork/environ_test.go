package fork

import (
	"bufio"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func parse(t testing.TB, text string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEnvironment(t *testing.T) {
	base := []string{"PATH=/bin", "Http_X_Mine=mine", "Http_Method=mine", "HOME=/"}
	for _, c := range []struct {
		name, request string
		mode          Mode
		want          []string // after PATH and HOME
	}{
		{"plain", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", Streaming,
			[]string{"Http_Method=GET", "Http_Path=/", "Http_X_Mine=mine"}},
		{"all", "POST /a%20b//c?q=%20&r HTTP/1.1\r\nHost: h\r\nx-tRACE-id: one\r\nX-Trace-Id: two\r\nX-Mine: theirs\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Serializing,
			[]string{"Http_Method=POST", "Http_Query=q=%20&r", "Http_Path=/a b//c", "Http_Transfer_Encoding=chunked", "Http_X_Mine=theirs", "Http_X_Trace_Id=one"}},
		{"length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab", Streaming,
			[]string{"Http_Method=POST", "Http_Path=/", "Http_Content_Length=2", "Http_X_Mine=mine"}},
		{"httpoxy", "GET / HTTP/1.1\r\nHost: h\r\npRoXy: http://evil\r\nProxy: http://evil\r\nX-Proxy: fine\r\n\r\n", Streaming,
			[]string{"Http_Method=GET", "Http_Path=/", "Http_X_Proxy=fine", "Http_X_Mine=mine"}},
		{"spoofed", "GET /real HTTP/1.1\r\nHost: h\r\nMethod: M\r\nPath: P\r\nQuery: Q\r\nTransfer_Encoding: T\r\n\r\n", Streaming,
			[]string{"Http_Method=GET", "Http_Path=/real", "Http_X_Mine=mine"}},
		{"underscore", "GET / HTTP/1.1\r\nHost: h\r\nA_1: false\r\nA-1: true\r\nB_2: only\r\n\r\n", Streaming,
			[]string{"Http_Method=GET", "Http_Path=/", "Http_A_1=true", "Http_B_2=only", "Http_X_Mine=mine"}},
		{"empty value", "GET / HTTP/1.1\r\nHost: h\r\nX-Mine:\r\n\r\n", Streaming,
			[]string{"Http_Method=GET", "Http_Path=/", "Http_X_Mine="}},
		{"nul", "GET /a%00/b HTTP/1.1\r\nHost: h\r\n\r\n", Streaming,
			[]string{"Http_Method=GET", "Http_Path=/a%00/b", "Http_X_Mine=mine"}},
		{"classic", "PUT /p HTTP/1.1\r\nHost: h:1\r\nContent-Length: 2\r\nContentLength: 9\r\n\r\nab", Classic,
			[]string{"Http_Method=PUT", "Http_Path=/p", "Http_ContentLength=2", "Http_Content_Length=2", "Http_Host=h:1", "Http_X_Mine=mine"}},
		{"classic chunked", "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Classic,
			[]string{"Http_Method=PUT", "Http_Path=/", "Http_Transfer_Encoding=chunked", "Http_ContentLength=-1", "Http_Content_Length=-1", "Http_Host=h", "Http_X_Mine=mine"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := Handler{Mode: c.mode, Environ: base, CGIHeaders: true}
			h.init()
			got, want := h.environ(parse(t, c.request)), append([]string{"PATH=/bin", "HOME=/"}, c.want...)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			h.CGIHeaders = false
			if got := h.environ(parse(t, c.request)); !slices.Equal(got, base) {
				t.Errorf("without cgi_headers: %q", got)
			}
		})
	}
}

// The process sees what environ says.
func TestEnvironmentOfTheProcess(t *testing.T) {
	r := serve(t, []string{"env"})
	req, _ := http.NewRequest("GET", r.URL+"/p%00%20q", nil)
	req.Header.Set("X-Multi", "line")
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got []string
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		got = append(got, lines.Text())
	}
	for _, want := range []string{"Http_Path=/p%00 q", "Http_X_Multi=line", "Http_Method=GET"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

// Whatever a request says: no variable twice, none that is the watchdog's from
// a header, none that can steer the process's own calls.
func FuzzEnvironment(f *testing.F) {
	f.Add("Proxy", "http://evil", "X_Y", "v", "/a%00b?q", false)
	f.Add("method", "M", "Path", "P", "/", true)
	f.Add("A-1", "1", "A_1", "2", "/?", false)
	f.Add("Content_Length", "1", "Contentlength", "2", "*", true)
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2, target string, classic bool) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(
			"POST " + target + " HTTP/1.1\r\nHost: h\r\n" + name1 + ": " + value1 + "\r\n" + name2 + ": " + value2 + "\r\n\r\n")))
		if err != nil {
			t.Skip()
		}
		h := Handler{Environ: []string{"PATH=/bin", "Http_X_Y=mine", "Http_Path=mine"}, CGIHeaders: true}
		if classic {
			h.Mode = Classic
		}
		h.init()
		seen := map[string]string{}
		for _, kv := range h.environ(r) {
			name, value, ok := strings.Cut(kv, "=")
			if _, twice := seen[name]; twice || !ok || strings.IndexByte(kv, 0) >= 0 {
				t.Fatalf("%q: twice %v", kv, twice)
			}
			if strings.EqualFold(name, "http_proxy") {
				t.Fatalf("%q", kv)
			}
			seen[name] = value
		}
		path := strings.ReplaceAll(r.URL.Path, "\x00", "%00")
		if r.URL.Path == "" {
			path = "mine"
		}
		if seen["Http_Method"] != r.Method || seen["Http_Path"] != path || seen["Http_Query"] != r.URL.RawQuery || seen["PATH"] != "/bin" {
			t.Fatalf("%q", seen)
		}
	})
}
