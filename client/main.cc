// quantctl: submits work to a quantd scheduler, watches it and brings the results home.
#include "client/cli.h"

int main(int argc, char** argv) {
  return quantd::RunClient({argv + 1, argv + argc}, quantd::ProcessEnvironment());
}
