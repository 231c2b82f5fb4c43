package e2e

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	goldenFaasCLI = "testdata/faas-cli"
	// What differs from run to run is named in the golden files.
	gatewayMark     = "gateway.example"
	namespaceMark   = "NAMESPACE"
	credentialsMark = "Basic CREDENTIALS"
)

// credentials are those of the harness's releases, as faas-cli sends them.
var credentials = "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+password))

// A spoken is one command of faas-cli and what it says to its user.
type spoken struct {
	golden string // file of its requests; none for one that sends nothing
	args   []string
	stdin  string
	want   []string
	fails  bool
}

// commands are those that the golden files hold; NAMESPACE stands for the
// release's.
var commands = []spoken{
	{golden: "login", args: []string{"login", "--username", "admin", "--password-stdin"}, stdin: password, want: []string{"credentials saved"}},
	{golden: "list", args: []string{"list"}, want: []string{"Function", "Invocations", "Replicas", "figlet"}},
	{golden: "list-verbose", args: []string{"list", "--verbose", "--namespace", namespaceMark}, want: []string{"Image", "figlet", "echo:" + imageTag, "CreatedAt"}},
	{golden: "describe", args: []string{"describe", "figlet"}, want: []string{"figlet", "Ready", "/function/figlet", "faas_function: figlet", "echo:" + imageTag}},
	{golden: "describe-unknown", args: []string{"describe", "nobody"}, want: []string{"o such function: nobody"}, fails: true},
	{golden: "invoke", args: []string{"invoke", "figlet"}, stdin: "hello", want: []string{"hello"}},
	{golden: "invoke-put", args: []string{"invoke", "figlet", "--namespace", namespaceMark, "--method", "PUT", "--query", "ms=1", "--header", "X-Of=weir", "--content-type", "text/csv"}, stdin: "a,b", want: []string{"a,b"}},
	{golden: "namespaces", args: []string{"namespaces"}, want: []string{namespaceMark}},
	{golden: "version", args: []string{"version", "--warn-update=false"}, want: []string{"kubernetes", "weir"}},
	{golden: "deploy", args: []string{"deploy", "--image", "weir/figlet", "--name", "another"}, want: []string{"501", "apply a manifest"}, fails: true},
	{golden: "remove", args: []string{"remove", "figlet"}, want: []string{"501", "apply a manifest"}, fails: true},
	{args: []string{"logout"}, want: []string{"credentials removed"}},
}

// faasCLIFunction is what the commands are about. echo gives bodies back.
func faasCLIFunction(t *testing.T, r *release) *function {
	t.Helper()
	f := r.deploy(t, fn{Name: "figlet", Labels: map[string]string{"faas_function": "figlet",
		"com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "1h"},
		Annotations: map[string]string{"topic": "banner"}})
	f.asleep(t)
	// describe says Ready of what serves.
	if resp, text := ask(t, http.MethodGet, r.weirs(t, 2)[0].url+f.path(), nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, text)
	}
	f.up(t, 1)
	return f
}

// The faas-cli of OpenFaaS lists, describes and invokes, and is told plainly
// what it cannot do. What it sends is what the golden files hold.
func TestFaasCLI(t *testing.T) {
	r := hardened(t)
	cli, err := program("faas-cli")
	if err != nil {
		t.Skip(err)
	}
	faasCLIFunction(t, r)
	between := recorder(t, r.weirs(t, 2)[0].url)
	home := t.TempDir()
	for _, s := range commands {
		args := append(slices.Clone(s.args), "--gateway", between.URL)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], namespaceMark, r.namespace)
		}
		cmd := exec.CommandContext(t.Context(), cli, args...)
		cmd.Env = []string{"HOME=" + home, "OPENFAAS_CONFIG=" + home, "PATH=" + os.Getenv("PATH")}
		cmd.Dir, cmd.Stdin = home, strings.NewReader(s.stdin)
		out, err := cmd.CombinedOutput()
		if (err != nil) != s.fails {
			// Some of its commands exit 0 whatever they were told.
			var exit *exec.ExitError
			if !s.fails || err != nil && !errors.As(err, &exit) {
				t.Errorf("faas-cli %v: %v\n%s", args, err, out)
			}
		}
		for _, want := range s.want {
			if want = strings.ReplaceAll(want, namespaceMark, r.namespace); !strings.Contains(string(out), want) {
				t.Errorf("faas-cli %v does not say %q:\n%s", args, want, out)
			}
		}
		if sent := between.taken(r.namespace); s.golden != "" {
			compare(t, s.golden, sent)
		} else if sent != "" {
			t.Errorf("faas-cli %v sends\n%s", args, sent)
		}
	}
}

// What faas-cli sends is answered as it reads it, with the program or without.
func TestFaasCLIReplayed(t *testing.T) {
	r := hardened(t)
	faasCLIFunction(t, r)
	w := r.weirs(t, 2)[0]
	for _, s := range commands {
		if s.golden == "" {
			continue
		}
		for _, req := range replayed(t, s.golden, w.url, r.namespace) {
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if err := asExpected(s, r.namespace, req, resp, body); err != nil {
				t.Errorf("%s: %s %s: %s: %v\n%s", s.golden, req.Method, req.URL.Path, resp.Status, err, body)
			}
		}
	}
	// Without its credentials it is told to log in, which it says to its user.
	for _, req := range replayed(t, "list", w.url, r.namespace) {
		req.Header.Del("Authorization")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("list without credentials: %s", resp.Status)
		}
	}
}

// functionStatus has the names and kinds that faas-cli reads.
type functionStatus struct {
	Name, Image, Namespace, EnvProcess string
	InvocationCount                    float64
	Replicas, AvailableReplicas        uint64
	Labels, Annotations                *map[string]string
	EnvVars                            map[string]string
	Constraints, Secrets               []string
	Limits, Requests                   *struct{ Memory, CPU string }
	CreatedAt                          time.Time
}

func (s functionStatus) check(namespace string) error {
	if s.Name != "figlet" || s.Namespace != namespace || !strings.HasSuffix(s.Image, "echo:"+imageTag) || s.CreatedAt.IsZero() ||
		s.Replicas != 1 || s.AvailableReplicas != 1 || s.InvocationCount < 1 {
		return fmt.Errorf("figlet is %+v", s)
	}
	if s.Labels == nil || (*s.Labels)["faas_function"] != "figlet" || s.Annotations == nil || (*s.Annotations)["topic"] != "banner" {
		return fmt.Errorf("figlet has labels %v and annotations %v", s.Labels, s.Annotations)
	}
	return nil
}

// asExpected says why an answer is not what faas-cli expects.
func asExpected(s spoken, namespace string, req *http.Request, resp *http.Response, body []byte) error {
	status := func(want int) error {
		if resp.StatusCode != want {
			return fmt.Errorf("want %d", want)
		}
		return nil
	}
	what := s.golden
	if req.Method == http.MethodGet && req.URL.Path == "/system/functions" {
		what = "list" // which others do too
	}
	switch what {
	case "list":
		var all []functionStatus
		if err := errors.Join(status(200), json.Unmarshal(body, &all)); err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(f functionStatus) bool { return f.Name == "figlet" })
		if i < 0 {
			return errors.New("no figlet")
		}
		return all[i].check(namespace)
	case "describe":
		var one functionStatus
		if err := errors.Join(status(200), json.Unmarshal(body, &one)); err != nil {
			return err
		}
		return one.check(namespace)
	case "describe-unknown":
		return status(404)
	case "invoke", "invoke-put":
		if err := status(200); err != nil {
			return err
		}
		if string(body) != s.stdin || resp.Header.Get("X-Call-Id") == "" {
			return fmt.Errorf("want %q and an X-Call-Id: %v", s.stdin, resp.Header)
		}
	case "namespaces":
		var all []string
		if err := errors.Join(status(200), json.Unmarshal(body, &all)); err != nil {
			return err
		}
		if !slices.Equal(all, []string{namespace}) {
			return fmt.Errorf("want %v", []string{namespace})
		}
	case "version":
		var info struct {
			Provider struct {
				Provider, Orchestration string
				Version                 *struct{ SHA, Release string }
			}
			Version *struct{ SHA, Release string }
		}
		if err := errors.Join(status(200), json.Unmarshal(body, &info)); err != nil {
			return err
		}
		if info.Provider.Provider != "weir" || info.Provider.Orchestration != "kubernetes" || info.Version == nil || info.Version.Release != "e2e" {
			return fmt.Errorf("%+v", info)
		}
	case "deploy", "remove":
		return status(501)
	default:
		return fmt.Errorf("nobody says how %s %s is to be answered", req.Method, req.URL)
	}
	return nil
}

// A recording stands between faas-cli and weir.
type recording struct {
	*httptest.Server
	mu  sync.Mutex
	all bytes.Buffer
}

func recorder(t *testing.T, to string) *recording {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	r := &recording{}
	forward := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(target) }}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Errorf("%s %s: %v", req.Method, req.URL, err)
			return
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		text, err := httputil.DumpRequest(req, true) // as it came, chunks included
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		r.all.Write(text)
		if !bytes.HasSuffix(text, []byte("\n")) {
			r.all.WriteByte('\n') // so that the next one begins a line
		}
		r.mu.Unlock()
		forward.ServeHTTP(w, req)
	}))
	t.Cleanup(r.Close)
	return r
}

// taken are the requests since it was last asked, with marks for what differs
// from run to run.
func (r *recording) taken(namespace string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.all.String()
	r.all.Reset()
	return strings.NewReplacer("\r\n", "\n", strings.TrimPrefix(r.URL, "http://"), gatewayMark, namespace, namespaceMark, credentials, credentialsMark).Replace(text)
}

func compare(t *testing.T, golden, got string) {
	t.Helper()
	path := filepath.Join(goldenFaasCLI, golden+".http")
	if *update {
		if err := errors.Join(os.MkdirAll(goldenFaasCLI, 0o755), os.WriteFile(path, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("faas-cli sends for %s:\n%s\nand %s holds (-update writes it anew):\n%s", golden, got, path, want)
	}
}

// replayed are the requests of a golden file, to be sent to a gateway.
func replayed(t *testing.T, golden, gateway, namespace string) (all []*http.Request) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(goldenFaasCLI, golden+".http"))
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(gateway)
	if err != nil {
		t.Fatal(err)
	}
	// Within a chunked body, lines end as HTTP has it.
	whole := strings.NewReplacer("\n", "\r\n", gatewayMark, to.Host, namespaceMark, namespace, credentialsMark, credentials).Replace(string(text))
	for in := bufio.NewReader(strings.NewReader(whole)); ; {
		for { // a body may be followed by a line's end
			if next, err := in.Peek(1); err != nil || next[0] != '\r' && next[0] != '\n' {
				break
			}
			_, _ = in.ReadByte()
		}
		req, err := http.ReadRequest(in)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", golden, err)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Fatalf("%s: %v", golden, err)
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.RequestURI, req.URL.Scheme, req.URL.Host = "", to.Scheme, to.Host
		all = append(all, req)
	}
}
