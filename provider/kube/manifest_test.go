package kube

import (
	"errors"
	"io"
	"os"
	"reflect"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// The manifest that is made from the chart gives exactly the rules that this
// package asks for. test/e2e compares it with the chart.
func TestManifestHasTheRules(t *testing.T) {
	f, err := os.Open("../../deploy/weir.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := map[string][]rbacv1.PolicyRule{"weir-functions": FunctionRules(), "weir": OwnRules()}
	for decoder := yaml.NewYAMLOrJSONDecoder(f, 4096); ; {
		var role rbacv1.Role // other kinds have no rules, and their fields are ignored
		if err := decoder.Decode(&role); errors.Is(err, io.EOF) {
			break
		} else if err != nil && role.Kind == "Role" {
			t.Fatal(err)
		}
		if role.Kind != "Role" {
			continue
		}
		if !reflect.DeepEqual(role.Rules, want[role.Name]) {
			t.Errorf("role %s:\n%v\nwant\n%v", role.Name, role.Rules, want[role.Name])
		}
		delete(want, role.Name)
	}
	for name := range want {
		t.Errorf("no role %s", name)
	}
}
