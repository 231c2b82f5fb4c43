package local

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/watchdog"
)

// functionsBound is far over what one machine runs as processes.
const functionsBound = 1000

// definition is one function as the stack file has it.
type definition struct {
	ref  function.Ref
	line int

	spec   function.Spec
	faults []function.Fault
	about  function.About

	// addr is host:port of a function that runs elsewhere, else empty.
	addr string
	// environment is what the stack gives to a replica, settings of fwatchdog
	// included, with $PORT as it stands there.
	environment map[string]string
	// grace is the longest that a replica may take to drain.
	grace time.Duration
}

// stack is what a file said.
type stack struct {
	functions []*definition
	// notes are what was not used, a sentence each.
	notes []string
}

// tolerated are the keys of a function that a builder or a cluster needs and a
// process of this machine does not.
var tolerated = []string{
	"lang", "handler", "image", "registry_auth", "skip_build", "build_options", "build_args", "build_secrets",
	"build_platforms", "platforms", "copy", "publish",
}

// unused are those that would mean something, and do not here.
var unused = []string{
	"secrets", "limits", "requests", "constraints", "environment_file", "readonly_root_filesystem",
}

// used are the keys that are read.
var used = []string{"fprocess", "environment", "labels", "annotations", "namespace", "url"}

// readStack reads a file whole. The error names everything that is wrong in it
// with file and line, one a line.
func readStack(path, namespace string) (*stack, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("stack file: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, stackBound+1))
	if err != nil {
		return nil, fmt.Errorf("stack file: %w", err)
	}
	return parseStack(text, path, namespace)
}

func parseStack(text []byte, file, namespace string) (*stack, error) {
	r := &stackReader{document: document{file: file}, namespace: namespace, ignored: map[string][]string{}}
	if root := r.parse(text); root != nil {
		for _, f := range r.fields(root, "the file") {
			r.top(f)
		}
		if !r.seen && len(r.faults) == 0 {
			r.fault(0, "no functions: expected functions: and below it NAME: with what each is")
		}
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	for _, key := range unused {
		if names := r.ignored[key]; len(names) > 0 {
			r.notes = append(r.notes, fmt.Sprintf("%s is not used for processes of this machine (%s)", key, strings.Join(names, ", ")))
		}
	}
	return &r.stack, nil
}

type stackReader struct {
	document
	stack
	namespace string
	seen      bool                // a functions: key
	ignored   map[string][]string // unused key: functions that have it
}

func (r *stackReader) top(f field) {
	switch {
	case f.name == "functions":
		r.seen = true
		for _, fn := range r.fields(f.value, "functions") {
			if len(r.functions) == functionsBound {
				r.fault(fn.line, "more than %d functions: expected fewer", functionsBound)
				return
			}
			if r.values > valuesBound {
				return
			}
			if d := r.function(fn); d != nil {
				r.functions = append(r.functions, d)
			}
		}
	case f.name == "version", f.name == "provider", f.name == "configuration":
	case strings.HasPrefix(f.name, "x-"): // where anchors are put
	default:
		r.fault(f.line, "%s: expected one of functions, provider, version, configuration, or x-…", shown(f.name))
	}
}

// function returns nil for one that has no use; a fault says why.
func (r *stackReader) function(f field) *definition {
	d := &definition{line: f.line}
	before := len(r.faults)
	var fprocess, address string
	var labels, annotations map[string]string
	lines := map[string]int{}
	namespace, namespaceLine := r.namespace, f.line
	for _, g := range r.fields(f.value, f.name) {
		what := f.name + "." + g.name
		switch {
		case g.name == "fprocess":
			fprocess, _ = r.text(g, what)
			lines["fprocess"] = g.line
		case g.name == "url":
			address, _ = r.text(g, what)
			d.addr = r.address(g, what, address)
		case g.name == "environment":
			d.environment, lines = r.environment(g, what, lines)
		case g.name == "labels":
			labels, _ = r.texts(g, what)
		case g.name == "annotations":
			annotations, _ = r.texts(g, what)
		case g.name == "namespace":
			if text, ok := r.text(g, what); ok && text != "" {
				namespace, namespaceLine = text, g.line
			}
		case slices.Contains(unused, g.name):
			r.ignored[g.name] = append(r.ignored[g.name], f.name)
		case !slices.Contains(tolerated, g.name):
			r.fault(g.line, "%s: expected one of %s, or what faas-cli builds and deploys by, such as image", what, strings.Join(used, ", "))
		}
	}
	d.ref = function.Ref{Name: f.name, Namespace: namespace}
	if address != "" {
		if fprocess != "" {
			r.fault(lines["fprocess"], "%s: both url and fprocess: expected url for what runs elsewhere, else fprocess", f.name)
		}
		if len(d.environment) > 0 {
			r.notes = append(r.notes, f.name+": environment is not used, for the function runs elsewhere")
		}
	} else {
		r.process(d, fprocess, lines, before)
	}
	if !r.name(f, namespace, namespaceLine) {
		return nil
	}
	d.settle(labels, annotations, address)
	return d
}

// name says whether a function can be called by its name, and tells of each part
// that is none at its own line.
func (r *stackReader) name(f field, namespace string, namespaceLine int) bool {
	const wanted = "expected lower case letters, digits and '-' between them, at most 63 long"
	ref, err := function.ParseRef(f.name, "default")
	name := err == nil && ref.Name == f.name
	if !name {
		r.fault(f.line, "name %s: %s", shown(f.name), wanted)
	}
	_, err = function.ParseRef("name", namespace)
	if err != nil {
		r.fault(namespaceLine, "%s: namespace %s: %s", f.name, shown(namespace), wanted)
	}
	return name && err == nil
}

// environment reads what a replica gets, checking the names.
func (r *stackReader) environment(f field, what string, lines map[string]int) (map[string]string, map[string]int) {
	values, at := r.texts(f, what)
	for name, line := range at {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			r.fault(line, "%s.%s: expected a name without '='", what, shown(name))
			delete(values, name)
		}
		if name != "fprocess" || lines[name] == 0 {
			lines[name] = line
		}
	}
	return values, lines
}

// address reads url: it returns host:port.
func (r *stackReader) address(f field, what, text string) string {
	u, err := url.Parse(text)
	port := 80
	if err == nil && u.Port() != "" {
		port, err = strconv.Atoi(u.Port())
	}
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" || u.Fragment != "" || port < 1 || port > 65535 || strings.ContainsAny(u.Hostname(), " \t/@") {
		r.fault(f.line, "%s=%s: expected http://HOST or http://HOST:PORT, with a port from 1 to 65535", what, shown(text))
		return ""
	}
	return net.JoinHostPort(u.Hostname(), strconv.Itoa(port))
}

// sample stands for the ports when settings are checked.
var sample = ports{function: 20001, metrics: 20002, handler: 20003}

// process settles what a replica runs, and has fwatchdog's own reading check
// its settings. before is how many faults there were before the function's.
func (r *stackReader) process(d *definition, fprocess string, lines map[string]int, before int) {
	if d.environment == nil {
		d.environment = map[string]string{}
	}
	env := d.environment
	if fprocess != "" {
		// The key beside environment wins, as it does with OpenFaaS.
		for _, name := range []string{"function_process", "WATCHDOG_FPROCESS", "WATCHDOG_FUNCTION_PROCESS"} {
			delete(env, name)
		}
		env["fprocess"] = fprocess
	}
	mode := pick(env, "mode")
	command := pick(env, "function_process", "fprocess")
	upstream := pick(env, "http_upstream_url", "upstream_url")
	switch {
	case command != "" && mode == string(watchdog.ModeHTTP) && upstream == "":
		env["upstream_url"] = "http://127.0.0.1:$PORT"
	case command == "" && mode != string(watchdog.ModeStatic) && (mode != string(watchdog.ModeHTTP) || upstream == ""):
		if len(r.faults) == before { // else it may be there, where it cannot be read
			r.fault(d.line, "%s: no fprocess: expected the handler's command, as fprocess or environment.fprocess, or url where it runs elsewhere", d.ref.Name)
		}
		// The rest is checked as if it were there.
		env["fprocess"] = "any"
		if mode == string(watchdog.ModeHTTP) {
			env["upstream_url"] = "http://127.0.0.1:$PORT"
		}
	}
	if command != "" && mode == string(watchdog.ModeHTTP) && upstream != "" && expandPort(upstream, 1) == upstream && !strings.HasPrefix(upstream, "unix:") {
		r.notes = append(r.notes, fmt.Sprintf("%s: upstream_url %s has a port of its own, on which a second replica cannot listen: let the handler listen on $PORT", d.ref.Name, shown(upstream)))
	}
	for _, name := range []string{"port", "metrics_port", "listen_address", "PORT", "TMPDIR"} {
		if pick(env, name) != "" {
			r.notes = append(r.notes, d.ref.Name+": "+name+" is not used: each replica has its own")
		}
	}
	cfg, err := watchdog.FromEnv(checked(env), watchdog.ModeStreaming)
	if err != nil {
		r.refused(d, err, lines)
		return
	}
	d.grace = cfg.HealthcheckInterval + cfg.ShutdownTimeout + cfg.KillGrace + graceSlack
}

// graceSlack is what fwatchdog may take beside what its settings bound.
const graceSlack = 5 * time.Second

// refused puts each fault of fwatchdog's settings at the line where it stands.
func (r *stackReader) refused(d *definition, err error, lines map[string]int) {
	list := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		list = joined.Unwrap()
	}
	for _, err := range list {
		line := d.line
		if f := (*watchdog.Fault)(nil); errors.As(err, &f) {
			for _, name := range []string{f.Name, strings.ToLower(strings.TrimPrefix(f.Name, "WATCHDOG_"))} {
				if lines[name] != 0 {
					line = lines[name]
					break
				}
			}
		}
		r.fault(line, "%s: %v", d.ref.Name, err)
	}
}

// settle makes what is shown and decided by of what was read. Being in a stack
// marks a function as weir's own: its defaults are weir's, and the names of
// OpenFaaS and SlimFaas are read all the same.
func (d *definition) settle(labels, annotations map[string]string, address string) {
	kind, mark := function.KindProcess, map[string]string{"weir/function": "true"}
	if d.addr != "" {
		kind = function.KindURL
	}
	d.spec, _, d.faults = function.Parse(function.Sources{
		Kind: kind, Namespace: d.ref.Namespace, Name: d.ref.Name,
		Annotations: merge(annotations, mark), Labels: labels,
	})
	d.about = function.About{
		Image: address, EnvVars: d.environment,
		EnvProcess: pick(d.environment, "function_process", "fprocess"),
		Labels:     labels, Annotations: annotations,
	}
	if d.addr == "" {
		d.about.Image = filepath.Base(firstWord(d.about.EnvProcess))
	}
}

func firstWord(command string) string {
	word, _, _ := strings.Cut(strings.TrimSpace(command), " ")
	return word
}
