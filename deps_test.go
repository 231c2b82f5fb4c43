package main_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/weir-run/weir"

// layers is the package table of docs/ARCHITECTURE.md: who may import whom.
// Imports go down the layers only, packages of one layer do not import each
// other, and of other modules each may name just what stands beside it.
// Packages that are not built yet are no failure; one that is not here is.
var layers = map[string]struct {
	layer int
	may   []string // prefixes beside the standard library and golang.org/x/sys
}{
	"":                      {5, nil},
	"cmd/weir":              {5, []string{"github.com/kelseyhightower/envconfig", "github.com/prometheus/client_golang/"}},
	"provider/kube":         {4, []string{"k8s.io/"}},
	"provider/local":        {4, []string{"go.yaml.in/yaml", "sigs.k8s.io/yaml", "gopkg.in/yaml.v3"}},
	"provider/memory":       {4, nil},
	"provider/providertest": {4, nil},
	"queue/jetstream":       {4, []string{"github.com/nats-io/", "github.com/minio/highwayhash"}},
	"queue/queuetest":       {4, nil},
	"watchdog":              {3, []string{"github.com/kelseyhightower/envconfig", "github.com/prometheus/client_golang/", "github.com/openfaas/faas-middleware/", "github.com/shirou/gopsutil/v3/"}},
	"gateway":               {3, []string{"github.com/prometheus/client_golang/"}},
	"autoscaler":            {3, []string{"github.com/prometheus/client_golang/", "github.com/prometheus/common/"}},
	"queue":                 {2, []string{"github.com/prometheus/client_golang/"}},
	"fleet":                 {1, nil},
	"proxy":                 {1, nil},
	"watchdog/fork":         {1, nil},
	"limiter/guard":         {0, []string{"github.com/shirou/gopsutil/v3/"}},
	"watchdog/process":      {0, nil},
	"watchdog/logs":         {0, nil},
	"invoke":                {0, nil},
	"limiter":               {0, nil},
	"health":                {0, nil},
	"function":              {0, nil},
	"contract":              {-1, nil},
}

// tools are programs of the repository, and what serves tests. Only they import
// each other, and *_test.go files, which the table is not about.
var tools = []string{"bench", "testdata", "templates", "test"}

func isTool(rel string) bool { return slices.Contains(tools, strings.Split(rel, "/")[0]) }

// watchdogGraph is every module that fwatchdog may contain. It is the entry
// point of other people's images: each line is a thing that they run as PID 1.
var watchdogGraph = map[string]string{
	"github.com/kelseyhightower/envconfig": "reads the settings",
	"github.com/prometheus/client_golang":  "metrics",
	"github.com/prometheus/client_model":   "of client_golang",
	"github.com/prometheus/common":         "of client_golang",
	"github.com/prometheus/procfs":         "of client_golang",
	"github.com/beorn7/perks":              "of client_golang",
	"github.com/cespare/xxhash/v2":         "of client_golang",
	"github.com/munnerz/goautoneg":         "of client_golang",
	"google.golang.org/protobuf":           "of client_golang",
	"github.com/openfaas/faas-middleware":  "JWT, the Limiter interface",
	"github.com/golang-jwt/jwt/v5":         "of faas-middleware",
	"github.com/rakutentech/jwk-go":        "of faas-middleware",
	"golang.org/x/crypto":                  "of jwk-go",
	"github.com/shirou/gopsutil/v3":        "what the machine reports",
	"github.com/tklauser/go-sysconf":       "of gopsutil",
	"github.com/tklauser/numcpus":          "of gopsutil",
	"golang.org/x/sys":                     "system calls",
}

type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Module     *struct{ Path string }
}

func list(t *testing.T, args ...string) []listed {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports,Module"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func inModule(path string) (rel string, ok bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func TestImportsGoDownTheLayers(t *testing.T) {
	for _, p := range list(t, "./...") {
		rel, _ := inModule(p.ImportPath)
		if isTool(rel) {
			continue
		}
		rule, known := layers[rel]
		if !known {
			t.Errorf("package %s is not in the table of layers", rel)
			continue
		}
		for _, imported := range p.Imports {
			if to, ours := inModule(imported); ours {
				if isTool(to) {
					t.Errorf("%s imports %s outside of its tests", rel, to)
				} else if layers[to].layer >= rule.layer {
					t.Errorf("%s imports %s, which is not below it", rel, to)
				}
				continue
			}
			first, _, _ := strings.Cut(imported, "/")
			if !strings.Contains(first, ".") || strings.HasPrefix(imported, "golang.org/x/sys/") {
				continue
			}
			if !slices.ContainsFunc(rule.may, func(prefix string) bool { return strings.HasPrefix(imported, prefix) }) {
				t.Errorf("%s imports %s, which its row in the table does not allow", rel, imported)
			}
		}
	}
}

func TestWatchdogContainsOnlyWhatIsAllowed(t *testing.T) {
	contained := map[string]bool{}
	for _, p := range list(t, "-deps", ".") {
		if p.Standard || p.Module == nil || p.Module.Path == module {
			continue
		}
		contained[p.Module.Path] = true
		if _, allowed := watchdogGraph[p.Module.Path]; !allowed {
			t.Errorf("fwatchdog contains %s of %s, which is not on the allow-list", p.ImportPath, p.Module.Path)
		}
	}
	for path := range watchdogGraph {
		if !contained[path] {
			t.Errorf("the allow-list names %s, which fwatchdog does not contain", path)
		}
	}
}

func TestOnlyOneImporter(t *testing.T) {
	owners := map[string]string{"k8s.io/": "provider/kube", "github.com/nats-io/": "queue/jetstream"}
	for _, p := range list(t, "./...") {
		rel, _ := inModule(p.ImportPath)
		for prefix, owner := range owners {
			for _, imported := range p.Imports {
				if strings.HasPrefix(imported, prefix) && rel != owner {
					t.Errorf("%s imports %s: only %s may", rel, imported, owner)
				}
			}
		}
	}
}
